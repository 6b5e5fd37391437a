// Convex's sync socket in front of the same mock, as strict as the service: what its clients never send ends the session with `FatalError`.
//
// A session's questions are asked again after every change, and whoever's answer is another is told in one `Transition` a session. Sessions are
// answered in the line in which requests are, as transactions are serial. `act` makes it misbehave.
const ZERO = { querySet: 0, identity: 0, ts: encoded(0n) };
const PING_MS = 15_000;
const FIELDS = {
  Connect: { sessionId: isUuid, connectionCount: isCount, lastCloseReason: (why) => why === null || isText(why), clientTs: isCount, "maxObservedTimestamp?": isTime },
  ModifyQuerySet: { baseVersion: isCount, newVersion: isCount, modifications: Array.isArray },
  Add: { queryId: isCount, udfPath: isFunction, args: isArguments, "journal?": (journal) => journal === null || isText(journal) },
  Remove: { queryId: isCount },
  Mutation: { requestId: isCount, udfPath: isFunction, args: isArguments },
  Event: { eventType: isText, event: () => true },
};

function encoded(ts) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(ts);
  return bytes.toString("base64");
}
function isUuid(value) {
  return /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(value);
}
function isCount(value) {
  return Number.isInteger(value) && value >= 0;
}
function isText(value) {
  return typeof value === "string";
}
function isTime(value) {
  return isText(value) && Buffer.from(value, "base64").length === 8;
}
function isFunction(value) {
  return isText(value) && /^\w+(\.js)?:\w+$/.test(value);
}
function isArguments(value) {
  return Array.isArray(value) && value.length === 1 && typeof value[0] === "object" && value[0] !== null;
}

// The fields of a message; throws for one that is missing, strange or of no use.
function checked(message) {
  const fields = FIELDS[message?.type];
  if (fields === undefined) throw new Error(`no message: ${message?.type}`);
  for (const name of Object.keys(message)) {
    if (name !== "type" && !(name in fields) && !(`${name}?` in fields)) throw new Error(`${message.type} has no ${name}`);
  }
  for (const [name, fits] of Object.entries(fields)) {
    const value = message[name.replace("?", "")];
    if (value === undefined ? !name.endsWith("?") : !fits(value)) throw new Error(`${message.type} without a right ${name}`);
  }
  return message;
}

// `answer(kind, body)` asks the mock, `inLine(work)` waits for its turn.
export function syncSocket({ server, WebSocketServer, answer, inLine }) {
  const sessions = new Set();
  const acts = { refuse: false, chunks: false };
  let clock = 1n;
  const sockets = new WebSocketServer({ noServer: true, maxPayload: 1 << 20 });

  function send(session, message) {
    session.quietSince = Date.now();
    session.socket.send(JSON.stringify(message));
  }

  function transition(session, modifications, querySet) {
    const endVersion = { querySet, identity: 0, ts: encoded(clock) };
    const whole = { type: "Transition", startVersion: session.version, endVersion, modifications };
    session.version = endVersion;
    if (!acts.chunks) return send(session, whole);
    const text = JSON.stringify(whole);
    const third = Math.ceil(text.length / 3);
    const parts = [text.slice(0, third), text.slice(third, 2 * third), text.slice(2 * third)];
    parts.forEach((chunk, partNumber) =>
      send(session, { type: "TransitionChunk", chunk, partNumber, totalParts: 3, transitionId: `t${clock}` }),
    );
  }

  async function asked(queryId, { udfPath, args }) {
    const [, told] = await answer("query", { path: udfPath.replace(".js:", ":"), args, format: "convex_encoded_json" });
    const { value, errorMessage, errorData } = told;
    const common = { queryId, logLines: [], journal: null };
    if (told.status === "success") return { type: "QueryUpdated", value, ...common };
    return { type: "QueryFailed", errorMessage, errorData, ...common };
  }

  async function modify(session, { baseVersion, newVersion, modifications }) {
    if (baseVersion !== session.version.querySet || newVersion !== baseVersion + 1) throw new Error("another version of the questions");
    const told = [];
    for (const one of modifications.map(checked)) {
      const stands = session.questions.has(one.queryId);
      if (one.type === "Add" && !stands) {
        const said = await asked(one.queryId, one);
        session.questions.set(one.queryId, { ...one, said: JSON.stringify(said) });
        told.push(said);
      } else if (one.type === "Remove" && stands) {
        session.questions.delete(one.queryId);
        told.push({ type: "QueryRemoved", queryId: one.queryId });
      } else {
        throw new Error(`question ${one.queryId} cannot be ${one.type}ed`);
      }
    }
    transition(session, told, newVersion);
  }

  // After a change: every session whose answers are others now is told.
  async function changed() {
    clock += 1n;
    for (const session of sessions) {
      const told = [];
      for (const [queryId, question] of session.questions) {
        const said = await asked(queryId, question);
        if (JSON.stringify(said) === question.said) continue;
        question.said = JSON.stringify(said);
        told.push(said);
      }
      if (told.length > 0) transition(session, told, session.version.querySet);
    }
  }

  async function mutate(session, { requestId, udfPath, args }) {
    const body = { path: udfPath.replace(".js:", ":"), args, format: "convex_encoded_json" };
    const [, told] = await answer("mutation", body);
    const common = { type: "MutationResponse", requestId, logLines: [] };
    if (told.status !== "success") {
      const { errorMessage, errorData } = told;
      return send(session, { ...common, success: false, result: errorMessage, errorData });
    }
    await changed();
    // Its own transition reaches the time of the mutation, so that the client lets go of it.
    send(session, { ...common, success: true, result: told.value, ts: encoded(clock) });
    transition(session, [], session.version.querySet);
  }

  async function take(session, text) {
    const message = checked(JSON.parse(text));
    if ((message.type === "Connect") === session.isConnected) throw new Error(`${message.type} out of its turn`);
    session.isConnected = true;
    if (message.type === "ModifyQuerySet") await modify(session, message);
    if (message.type === "Mutation") await mutate(session, message);
    if (message.type === "Add" || message.type === "Remove") throw new Error(`${message.type} stands in ModifyQuerySet`);
  }

  function fail(session, error) {
    send(session, { type: "FatalError", error });
    session.socket.close(1000, "FatalError");
  }

  server.on("upgrade", (request, line, head) => {
    if (acts.refuse || !/^\/api\/([\w.-]+\/)?sync$/.test(request.url)) {
      const page = "<html>not here</html>";
      const moved = acts.refuse === "redirect" ? "302 Found\r\nLocation: http://127.0.0.1:9/api/sync" : "503 Service Unavailable";
      return line.end(`HTTP/1.1 ${moved}\r\nConnection: close\r\nContent-Length: ${page.length}\r\n\r\n${page}`);
    }
    sockets.handleUpgrade(request, line, head, (socket) => {
      const session = { socket, version: ZERO, questions: new Map(), isConnected: false, quietSince: Date.now() };
      sessions.add(session);
      const alive = setInterval(() => {
        if (Date.now() - session.quietSince >= PING_MS) send(session, { type: "Ping" });
      }, 1_000);
      socket.on("close", () => {
        clearInterval(alive);
        sessions.delete(session);
      });
      socket.on("error", () => socket.terminate());
      socket.on("message", (data, isBinary) =>
        inLine(() => (isBinary ? Promise.reject(new Error("binary")) : take(session, data.toString("utf8")))
          .catch((error) => fail(session, String(error?.message ?? error)))),
      );
    });
  });

  // For tests: `refuse` (`true`, `"redirect"` or `false`) and `chunks` stay as they are set, `drop` ends all sockets, `say` says something to all.
  // How many questions stand.
  function act({ refuse, chunks, drop, say }) {
    if (refuse !== undefined) acts.refuse = refuse;
    if (chunks !== undefined) acts.chunks = chunks;
    for (const session of sessions) {
      if (say !== undefined) session.socket.send(say);
      if (drop) session.socket.terminate();
    }
    return [...sessions].reduce((sum, session) => sum + session.questions.size, 0);
  }

  return { changed, act };
}

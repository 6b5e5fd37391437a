//! Documents with their history, and commits.
//!
//! Invariant: a commit applies all of its writes or none; commit times only grow; a write that changes nothing keeps the document's
//! `updateTime`. A read may be made as of any earlier moment.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

pub type Fields = Map<String, Value>;

const MAX_WRITES: usize = 500;
const MAX_DOCUMENT_BYTES: usize = 1_048_576;
const MAX_ID_BYTES: usize = 1_500;
/// Commits lie at least so far apart; the service's are slower.
const TICK_NS: u64 = 1_000_000;
const HOUR_NS: u64 = 3_600_000_000_000;

/// A refusal: the status, and the sentence.
#[derive(Clone, Debug)]
pub struct Refusal(pub &'static str, pub String);

pub type Answer<T> = Result<T, Refusal>;

pub fn invalid<T>(why: impl Into<String>) -> Answer<T> {
    Err(Refusal("INVALID_ARGUMENT", why.into()))
}

/// One state of a document.
#[derive(Clone, Debug)]
pub struct State {
    pub fields: Fields,
    pub create_ns: u64,
    pub update_ns: u64,
}

#[derive(Clone, Debug)]
struct Version {
    at_ns: u64,
    state: Option<State>,
}

/// What a transaction has read: name and the time of the version it saw.
#[derive(Clone, Debug, Default)]
struct Reads(BTreeMap<String, u64>);

/// Everything there is.
#[derive(Default)]
pub struct Store {
    documents: BTreeMap<String, Vec<Version>>,
    transactions: BTreeMap<String, Reads>,
    last_ns: u64,
    /// How far the service's clock was moved.
    pub ahead_ns: u64,
    /// How far stamps lie behind the commits that carry them.
    pub stamp_lag_ns: u64,
    next_transaction: u64,
}

impl Store {
    /// The moment of a read: after every commit so far.
    pub fn now_ns(&mut self) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64 + self.ahead_ns;
        self.last_ns = self.last_ns.max(wall);
        self.last_ns
    }

    fn tick(&mut self) -> u64 {
        let before = self.last_ns;
        // Odd nanoseconds, so that whoever drops digits is found out.
        let now = self.now_ns().max(before + TICK_NS) / 1_000 * 1_000 + 789;
        self.last_ns = now;
        now
    }

    /// The state of a document as of a moment.
    pub fn state(&self, name: &str, as_of_ns: u64) -> Option<&State> {
        let versions = self.documents.get(name)?;
        versions.iter().rev().find(|version| version.at_ns <= as_of_ns)?.state.as_ref()
    }

    /// The documents of a collection as of a moment, by name.
    pub fn collection(&self, parent: &str, id: &str, as_of_ns: u64) -> impl Iterator<Item = (&String, &State)> {
        let lead = format!("{parent}/{id}/");
        let inside = self.documents.range(lead.clone()..);
        let inside = inside.map(move |(name, _)| (name, name.strip_prefix(lead.as_str())));
        let own = inside
            .take_while(|(_, rest)| rest.is_some())
            .filter(|(_, rest)| rest.is_some_and(|rest| !rest.contains('/')));
        own.filter_map(move |(name, _)| Some((name, self.state(name, as_of_ns)?)))
    }

    pub fn collections(&self, parent: &str) -> Vec<String> {
        let lead = format!("{parent}/");
        let now = u64::MAX;
        let names = self.documents.keys().filter(|name| self.state(name, now).is_some());
        let mut ids: Vec<String> =
            names.filter_map(|name| Some(name.strip_prefix(&lead)?.split('/').next()?.to_owned())).collect();
        ids.dedup();
        ids
    }

    /// The moment of a read that names one.
    pub fn read_time(&mut self, named: Option<&str>) -> Answer<u64> {
        let now = self.now_ns();
        let Some(named) = named else { return Ok(now) };
        match parse_time(named) {
            Some(at) if at > now => invalid("read time is in the future"),
            Some(at) if at + HOUR_NS < now => {
                Err(Refusal("FAILED_PRECONDITION", "The requested 'read_time' is too old.".to_owned()))
            }
            Some(at) => Ok(at),
            None => invalid("read time is no timestamp"),
        }
    }

    pub fn begin(&mut self) -> String {
        self.next_transaction += 1;
        let id = data_encoding::BASE64.encode(format!("tx{}", self.next_transaction).as_bytes());
        self.transactions.insert(id.clone(), Reads::default());
        id
    }

    pub fn rollback(&mut self, transaction: &str) {
        self.transactions.remove(transaction);
    }

    pub fn note_read(&mut self, transaction: &str, name: &str) -> Answer<()> {
        let at = self.documents.get(name).and_then(|versions| versions.last()).map_or(0, |version| version.at_ns);
        match self.transactions.get_mut(transaction) {
            Some(reads) => {
                reads.0.entry(name.to_owned()).or_insert(at);
                Ok(())
            }
            None => invalid("The referenced transaction has expired or is no longer valid."),
        }
    }

    /// Applies writes all or not at all.
    pub fn commit(&mut self, writes: &[Value], transaction: Option<&str>) -> Answer<Value> {
        let stamps: usize =
            writes.iter().filter_map(|write| write.get("updateTransforms")?.as_array()).map(Vec::len).sum();
        if writes.len() + stamps > MAX_WRITES {
            return invalid(format!("maximum {MAX_WRITES} writes allowed per request"));
        }
        if let Some(id) = transaction.filter(|id| !id.is_empty()) {
            let Some(reads) = self.transactions.remove(id) else {
                return invalid("The referenced transaction has expired or is no longer valid.");
            };
            let newest =
                |name: &str| self.documents.get(name).and_then(|versions| versions.last()).map_or(0, |v| v.at_ns);
            if reads.0.iter().any(|(name, seen)| newest(name) != *seen) {
                return Err(Refusal("ABORTED", "Too much contention on these documents. Please try again.".to_owned()));
            }
        }
        let (before, at_ns) = (self.last_ns, self.tick());
        let stamp_ns = at_ns.saturating_sub(self.stamp_lag_ns) / 1_000_000 * 1_000_000;
        let mut staged: BTreeMap<String, Option<State>> = BTreeMap::new();
        let mut results = Vec::new();
        for write in writes {
            match self.stage(write, &mut staged, at_ns, stamp_ns) {
                Ok(result) => results.push(result),
                Err(refusal) => {
                    self.last_ns = before;
                    return Err(refusal);
                }
            }
        }
        for (name, state) in staged {
            let stands = self.state(&name, u64::MAX);
            let same = match (&state, stands) {
                (Some(new), Some(old)) => new.update_ns == old.update_ns,
                (None, None) => true,
                _ => false,
            };
            if !same {
                self.documents.entry(name).or_default().push(Version { at_ns, state });
            }
        }
        Ok(json!({ "writeResults": results, "commitTime": time_text(at_ns) }))
    }

    fn stage(
        &self,
        write: &Value,
        staged: &mut BTreeMap<String, Option<State>>,
        at_ns: u64,
        stamp_ns: u64,
    ) -> Answer<Value> {
        known(write, &["update", "delete", "updateMask", "updateTransforms", "currentDocument"])?;
        let update = write.get("update");
        let name = match (update, write.get("delete").and_then(Value::as_str)) {
            (Some(update), None) => {
                known(update, &["name", "fields", "createTime", "updateTime"])?;
                update.get("name").and_then(Value::as_str).unwrap_or_default()
            }
            (None, Some(name)) => name,
            _ => return invalid("a write is one update or one delete"),
        };
        check_name(name)?;
        let stands = match staged.get(name) {
            Some(state) => state.clone(),
            None => self.state(name, u64::MAX).cloned(),
        };
        check_condition(name, write.get("currentDocument"), stands.as_ref(), update.is_none())?;
        let Some(update) = update else {
            staged.insert(name.to_owned(), None);
            return Ok(json!({}));
        };
        let fields = update.get("fields").and_then(Value::as_object).cloned().unwrap_or_default();
        for value in fields.values() {
            check_value(value)?;
        }
        let mut new = match write.get("updateMask") {
            None => fields,
            Some(mask) => masked(stands.as_ref().map(|state| &state.fields), fields, mask)?,
        };
        let mut transformed = Vec::new();
        for transform in write.get("updateTransforms").and_then(Value::as_array).into_iter().flatten() {
            transformed.push(apply_transform(&mut new, transform, stamp_ns)?);
        }
        let size = name.len() + new.iter().map(|(key, value)| key.len() + 1 + value_bytes(value)).sum::<usize>() + 32;
        if size > MAX_DOCUMENT_BYTES {
            let why = format!(
                "Document '{name}' cannot be written because its size ({size} bytes) exceeds the maximum allowed size of {MAX_DOCUMENT_BYTES} bytes."
            );
            return invalid(why);
        }
        let (create_ns, update_ns) = match &stands {
            Some(state) if state.fields == new => (state.create_ns, state.update_ns),
            Some(state) => (state.create_ns, at_ns),
            None => (at_ns, at_ns),
        };
        staged.insert(name.to_owned(), Some(State { fields: new, create_ns, update_ns }));
        let mut result = json!({ "updateTime": time_text(update_ns) });
        if !transformed.is_empty() {
            result["transformResults"] = json!(transformed);
        }
        Ok(result)
    }
}

fn check_condition(name: &str, condition: Option<&Value>, stands: Option<&State>, is_delete: bool) -> Answer<()> {
    let Some(condition) = condition else { return Ok(()) };
    known(condition, &["exists", "updateTime"])?;
    match (condition.get("exists").and_then(Value::as_bool), condition.get("updateTime").and_then(Value::as_str)) {
        (Some(false), _) if is_delete => invalid("a delete cannot require that its document does not exist"),
        (Some(false), _) if stands.is_some() => {
            Err(Refusal("ALREADY_EXISTS", format!("Document already exists: {name}")))
        }
        (Some(true), _) if stands.is_none() => Err(Refusal("NOT_FOUND", format!("No document to update: {name}"))),
        (None, Some(time)) => {
            let Some(required) = parse_time(time) else { return invalid("update time is no timestamp") };
            match stands {
                None => Err(Refusal("NOT_FOUND", format!("No document to update: {name}"))),
                Some(state) if state.update_ns != required => Err(Refusal(
                    "FAILED_PRECONDITION",
                    format!(
                        "the stored version ({}) does not match the required base version ({required})",
                        state.update_ns
                    ),
                )),
                Some(_) => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn masked(stands: Option<&Fields>, fields: Fields, mask: &Value) -> Answer<Fields> {
    known(mask, &["fieldPaths"])?;
    let mut new = stands.cloned().unwrap_or_default();
    for path in mask.get("fieldPaths").and_then(Value::as_array).into_iter().flatten() {
        let Some(path) = path.as_str().filter(|path| !path.contains(['.', '`'])) else {
            return invalid("only plain field paths are known here");
        };
        match fields.get(path) {
            Some(value) => drop(new.insert(path.to_owned(), value.clone())),
            None => drop(new.remove(path)),
        }
    }
    Ok(new)
}

fn apply_transform(fields: &mut Fields, transform: &Value, stamp_ns: u64) -> Answer<Value> {
    known(transform, &["fieldPath", "setToServerValue", "increment"])?;
    let Some(path) = transform.get("fieldPath").and_then(Value::as_str) else {
        return invalid("a transform of no field");
    };
    // Names of an enumeration may come as their numbers.
    let server_value = transform
        .get("setToServerValue")
        .map(|value| if *value == json!(1) { "REQUEST_TIME" } else { value.as_str().unwrap_or_default() });
    let value = match (server_value, transform.get("increment")) {
        (Some("REQUEST_TIME"), None) => json!({ "timestampValue": time_text(stamp_ns) }),
        (None, Some(by)) => {
            let number = |value: Option<&Value>| value?.get("integerValue")?.as_str()?.parse::<i64>().ok();
            let sum = number(fields.get(path)).unwrap_or(0) + number(Some(by)).unwrap_or(0);
            json!({ "integerValue": sum.to_string() })
        }
        _ => return invalid("this transform is not known here"),
    };
    fields.insert(path.to_owned(), value.clone());
    Ok(value)
}

/// Refuses what the service would: a field it does not know.
pub fn known(value: &Value, names: &[&str]) -> Answer<()> {
    let Some(object) = value.as_object() else { return invalid("an object was expected") };
    match object.keys().find(|key| !names.contains(&key.as_str())) {
        Some(key) => invalid(format!("Invalid JSON payload received. Unknown name \"{key}\": Cannot find field.")),
        None => Ok(()),
    }
}

fn check_name(name: &str) -> Answer<()> {
    let parts: Vec<&str> = name.split('/').collect();
    let is_document = parts.len() >= 7 && parts.len() % 2 == 1 && parts[0] == "projects" && parts[4] == "documents";
    if !is_document {
        return invalid(format!("Document name \"{name}\" is not valid"));
    }
    let reserved = |id: &&str| id.len() > 3 && id.starts_with("__") && id.ends_with("__");
    let bad = |id: &&&str| id.is_empty() || matches!(**id, "." | "..") || reserved(id) || id.len() > MAX_ID_BYTES;
    match parts[5..].iter().find(bad) {
        Some(id) => invalid(format!("Resource id \"{id}\" is invalid")),
        None => Ok(()),
    }
}

fn check_value(value: &Value) -> Answer<()> {
    let kinds = [
        "nullValue",
        "booleanValue",
        "integerValue",
        "doubleValue",
        "timestampValue",
        "stringValue",
        "bytesValue",
        "referenceValue",
        "arrayValue",
        "mapValue",
    ];
    known(value, &kinds)?;
    let Some((kind, inner)) = value.as_object().and_then(|object| object.iter().next()) else {
        return invalid("a value without a kind");
    };
    let fits = match (kind.as_str(), inner) {
        ("integerValue", Value::String(text)) => text.parse::<i64>().is_ok(),
        ("timestampValue", Value::String(text)) => parse_time(text).is_some(),
        ("bytesValue", Value::String(text)) => data_encoding::BASE64.decode(text.as_bytes()).is_ok(),
        ("stringValue" | "referenceValue", inner) => inner.is_string(),
        ("booleanValue", inner) => inner.is_boolean(),
        _ => true,
    };
    if fits { Ok(()) } else { invalid(format!("Invalid value for {kind}")) }
}

fn value_bytes(value: &Value) -> usize {
    match value.as_object().and_then(|object| object.iter().next()) {
        Some((kind, Value::String(text))) => match kind.as_str() {
            "stringValue" => text.len() + 1,
            "bytesValue" => text.len() / 4 * 3,
            _ => 16,
        },
        _ => 8,
    }
}

/// RFC 3339 as the service writes it: as many groups of three digits as are needed.
pub fn time_text(ns: u64) -> String {
    let moment = jiff::Timestamp::from_nanosecond(i128::from(ns)).expect("a moment of this age");
    match ns % 1_000_000_000 {
        0 => format!("{moment:.0}"),
        rest if rest % 1_000_000 == 0 => format!("{moment:.3}"),
        rest if rest % 1_000 == 0 => format!("{moment:.6}"),
        _ => format!("{moment:.9}"),
    }
}

pub fn parse_time(text: &str) -> Option<u64> {
    let moment: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(moment.as_nanosecond()).ok()
}

/// A document as an answer shows it, with some of its fields or all.
pub fn shown(name: &str, state: &State, mask: Option<&[String]>) -> Value {
    let asked = |key: &String| mask.is_none_or(|mask| mask.contains(key));
    let fields: Fields =
        state.fields.iter().filter(|(key, _)| asked(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let (create, update) = (time_text(state.create_ns), time_text(state.update_ns));
    json!({ "name": name, "fields": fields, "createTime": create, "updateTime": update })
}

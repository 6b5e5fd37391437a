//! Laws of buckets, over a bucket in memory that answers as servers do: in pages, in no order, and sometimes falsely.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use object_store::list::PaginatedListResult;
use object_store::memory::InMemory;
use object_store::{CopyOptions, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutResult};

use super::explain::Service;
use super::line::Line;
use super::*;
use crate::transport::{Opening, contract};

/// A bucket and how it misbehaves.
#[derive(Debug, Default)]
struct Bucket {
    objects: InMemory,
    /// Keys of one answer; 0 as many as asked for.
    page: usize,
    /// Where a listing begins is not heard.
    is_deaf: bool,
    /// The condition of a put is not heard.
    replaces: AtomicBool,
    /// Somebody takes away what is to be replaced, just before it is.
    is_emptied: AtomicBool,
    puts: AtomicU64,
}

impl std::fmt::Display for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a bucket in memory")
    }
}

type Answer<T> = object_store::Result<T>;

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, key: &Path, payload: PutPayload, mut options: PutOptions) -> Answer<PutResult> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        if self.replaces.load(Ordering::SeqCst) {
            options.mode = PutMode::Overwrite;
        }
        if self.is_emptied.load(Ordering::SeqCst) {
            self.objects.delete(key).await?;
        }
        self.objects.put_opts(key, payload, options).await
    }

    async fn put_multipart_opts(&self, key: &Path, options: PutMultipartOptions) -> Answer<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Answer<GetResult> {
        self.objects.get_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Answer<Path>>) -> BoxStream<'static, Answer<Path>> {
        self.objects.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Answer<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Answer<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Answer<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

/// As S3 does it: entries in order, folders once, a token that says where the next page begins.
#[async_trait]
impl PaginatedListStore for Bucket {
    async fn list_paginated(&self, prefix: Option<&str>, options: PaginatedListOptions) -> Answer<PaginatedListResult> {
        let prefix = prefix.unwrap_or_default();
        let offset = options.offset.filter(|_| !self.is_deaf);
        let begin = options.page_token.clone().or(offset).unwrap_or_default();
        let all: Vec<ObjectMeta> = self.objects.list(None).try_collect().await?;
        let folder = |key: &str| {
            let slash = key[prefix.len()..].find('/')?;
            options.delimiter.as_ref().map(|_| key[..=prefix.len() + slash].to_owned())
        };
        let below = all.iter().filter(|object| object.location.as_ref().starts_with(prefix));
        let later = below.filter(|object| *object.location.as_ref() > *begin);
        let entries =
            later.map(|object| folder(object.location.as_ref()).unwrap_or_else(|| object.location.to_string()));
        let passed = options.page_token.as_ref();
        let entries: BTreeSet<String> = entries.filter(|entry| passed.is_none_or(|token| entry != token)).collect();
        let most = [self.page, options.max_keys.unwrap_or(usize::MAX)].into_iter().filter(|most| *most > 0).min();
        let page: Vec<&String> = entries.iter().take(most.unwrap_or(usize::MAX)).collect();
        let page_token = (page.len() < entries.len()).then(|| page.last().map(|last| (*last).clone())).flatten();
        let objects = all.iter().filter(|object| page.iter().any(|entry| **entry == object.location.as_ref()));
        let folders = page.iter().filter(|entry| entry.ends_with('/')).map(Path::parse);
        let result = ListResult {
            objects: objects.rev().cloned().collect(),
            common_prefixes: folders.collect::<Result<_, _>>()?,
            extensions: Default::default(),
        };
        Ok(PaginatedListResult { result, page_token })
    }
}

fn visit(bucket: &Arc<Bucket>, prefix: &str, writes: Writes) -> ObjectTransport {
    let (label, name) = ("s3://test".to_owned(), "test".to_owned());
    let scene = Scene { service: Service::S3, label, bucket: name, line: Line::default() };
    ObjectTransport::new(bucket.clone(), prefix, scene, writes)
}

fn keys(bucket: &Bucket) -> Vec<String> {
    let all = block_on(bucket.objects.list(None).try_collect::<Vec<_>>()).expect("starts").expect("lists");
    all.into_iter().map(|object| object.location.to_string()).collect()
}

#[test]
fn a_bucket_keeps_the_transport_contract_whatever_its_pages_and_its_prefix() {
    for (page, is_deaf, prefix) in [(0, false, ""), (1, false, "some/where é/"), (3, false, "p/"), (2, true, "p/")] {
        contract::run(&|| {
            let bucket = Arc::new(Bucket { page, is_deaf, ..Bucket::default() });
            Box::new(move || Arc::new(visit(&bucket, prefix, Writes::Conditional)) as Arc<dyn Transport>)
        });
    }
}

#[test]
fn a_server_that_replaces_is_found_out_before_the_first_artifact_is_put() {
    let bucket = Arc::new(Bucket { replaces: true.into(), ..Bucket::default() });
    let place = visit(&bucket, "p/", Writes::Conditional);

    for _ in 0..2 {
        let error = place.put_new("app/a", b"1").expect_err("refused");
        assert_eq!(error.kind, TransportErrorKind::Denied);
        assert!(error.to_string().contains("ignores the condition") && error.to_string().contains("?conditional=no"));
    }

    assert_eq!(keys(&bucket), ["p/larder-store.json"]);
    assert_eq!(place.list(&ListRequest::new("", Depth::All)).expect("reads"), Listing::default());
}

#[test]
fn with_the_users_word_a_server_that_replaces_gets_what_is_not_there_and_never_anything_twice() {
    let bucket = Arc::new(Bucket { replaces: true.into(), ..Bucket::default() });
    let place = visit(&bucket, "", Writes::Unconditional);

    assert_eq!(place.put_new("app/a", b"1").expect("puts"), Put::Written);
    let puts = bucket.puts.load(Ordering::SeqCst);
    assert_eq!(place.put_new("app/a", b"1").expect("is there"), Put::AlreadyThere);
    assert_eq!(place.put_new("app/a", b"22").expect_err("other bytes").kind, TransportErrorKind::Conflict);

    assert_eq!((bucket.puts.load(Ordering::SeqCst), puts), (1, 1));
    assert_eq!(place.get("app/a", None, 10).expect("reads"), b"1");
}

#[test]
fn wrong_bytes_are_replaced_by_right_ones_and_what_was_taken_away_is_put_anew() {
    for writes in [Writes::Conditional, Writes::Unconditional] {
        let bucket = Arc::new(Bucket::default());
        let place = visit(&bucket, "p/", writes);
        place.put_new("app/a", b"wrong").expect("puts");
        let mending = place.mending().expect("it can be mended");

        mending.mend("app/a", b"right").expect("mended");
        mending.mend("app/gone", b"right").expect("put anew");

        for name in ["app/a", "app/gone"] {
            assert_eq!(place.get(name, None, 10).expect("reads"), b"right", "{name}");
        }
        assert_eq!(place.put_new("app/a", b"other").expect_err("as ever").kind, TransportErrorKind::Conflict);
    }
}

#[test]
fn what_is_taken_away_while_it_is_mended_stays_away() {
    let bucket = Arc::new(Bucket::default());
    let place = visit(&bucket, "", Writes::Conditional);
    place.put_new("app/a", b"wrong").expect("puts");
    bucket.is_emptied.store(true, Ordering::SeqCst);

    let error = place.mending().expect("it can be mended").mend("app/a", b"right").expect_err("somebody purged it");

    assert_eq!(error.kind, TransportErrorKind::Conflict, "{error}");
    assert_eq!(keys(&bucket), ["larder-store.json"]);
}

#[test]
fn the_condition_is_tried_once_and_costs_nothing_while_nothing_is_put() {
    let bucket = Arc::new(Bucket::default());
    let place = visit(&bucket, "", Writes::Conditional);
    place.list(&ListRequest::new("app/", Depth::All)).expect("lists");
    assert_eq!(keys(&bucket), [""; 0]);

    for n in 0..5 {
        place.put_new(&format!("app/{n}"), b"x").expect("puts");
    }

    // The store's own file, once more onto it, and the five.
    assert_eq!(bucket.puts.load(Ordering::SeqCst), 7);
    let second = visit(&bucket, "", Writes::Conditional);
    second.put_new("app/5", b"x").expect("puts");
    assert_eq!(bucket.puts.load(Ordering::SeqCst), 9);
}

#[test]
fn what_else_stands_in_a_bucket_is_neither_listed_nor_read() {
    let bucket = Arc::new(Bucket::default());
    let place = visit(&bucket, "p/", Writes::Conditional);
    place.put_new("app/a", b"x").expect("puts");
    let put = |key: &str| {
        let key = Path::parse(key).expect("a path");
        block_on(bucket.objects.put_opts(&key, "x".into(), PutOptions::default())).expect("starts")
    };
    for key in ["other", "p/beside", "pp/app/b", "p/app/back\\slash", &format!("p/app/{}", "x".repeat(256))] {
        put(key).expect("puts");
    }

    for depth in [Depth::All, Depth::Children] {
        assert_eq!(place.list(&ListRequest::new("app/", depth)).expect("lists").names, ["app/a"]);
    }
    assert_eq!(place.list(&ListRequest::new("", Depth::All)).expect("lists").names, ["app/a"]);
    assert_eq!(place.get("beside", None, 10).expect_err("no artifact").kind, TransportErrorKind::NotFound);
}

#[test]
fn a_listing_that_never_ends_is_given_up() {
    #[derive(Debug)]
    struct Endless;
    #[async_trait]
    impl PaginatedListStore for Endless {
        async fn list_paginated(&self, _: Option<&str>, _: PaginatedListOptions) -> Answer<PaginatedListResult> {
            let result = ListResult { objects: vec![], common_prefixes: vec![], extensions: Default::default() };
            let page_token = Some("again".to_owned());
            Ok(PaginatedListResult { result, page_token })
        }
    }
    let bucket = Arc::new(Bucket::default());
    let place = ObjectTransport { pages: Arc::new(Endless), ..visit(&bucket, "", Writes::Conditional) };

    let error = place.list(&ListRequest::new("app/", Depth::All)).expect_err("given up");

    assert_eq!(error.kind, TransportErrorKind::TooLarge);
}

/// A server that begins to answer and never ends; how many bytes it got rid of in each answer.
fn endless_server(status: &'static str) -> (String, std::sync::mpsc::Receiver<u64>) {
    use std::io::{Read, Write};
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", socket.local_addr().expect("has one"));
    let (sender, sent) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut line in socket.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            let _ = line.read(&mut request);
            let head = format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n");
            let chunk = [&b"10000\r\n"[..], &[b'<'; 0x10000], b"\r\n"].concat();
            let mut count = 0;
            let mut open = line.write_all(head.as_bytes()).is_ok();
            while open && count < (1 << 30) {
                open = line.write_all(&chunk).is_ok();
                count += 0x10000;
            }
            if sender.send(count).is_err() {
                return;
            }
        }
    });
    (endpoint, sent)
}

#[test]
fn an_answer_without_end_is_cut_off() {
    for (status, most) in [("200 OK", 64 << 20), ("403 Forbidden", 32 << 20)] {
        let (endpoint, sent) = endless_server(status);
        let vars =
            [("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "SK")];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let vars = Arc::new(vars.into_iter().collect());
        let opening = Opening { vars, ..Opening::new("app", "/nowhere".as_ref()) };
        let place = open_s3("s3://b", &opening).expect("opens");

        let error = place.list(&ListRequest::new("app/", Depth::All)).expect_err("no listing");

        assert_eq!(error.kind, TransportErrorKind::Unavailable, "{error}");
        let sent = sent.recv().expect("the server tells");
        assert!(sent < most, "{status}: {sent} bytes were taken");
    }
}

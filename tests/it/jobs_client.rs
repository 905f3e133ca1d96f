//! The client of the API, beside servers that are slow, wrong, down or hostile.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Response, Uri};
use bytes::Bytes;
use qomplement_webhooks::fetch::{ApiKey, DownloadError, FetchError, Fetched, JobSource, RequestBudget};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{JobId, JobsClient};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};
use tracing::subscriber::NoSubscriber;
use tracing_subscriber::util::SubscriberInitExt;

const KEY: &str = "canary-key-4Kz0PhvXDXnKcQ9JvW5c8tqGpn7oYbRm";
const ID: &str = "550e8400-e29b-41d4-a716-446655440000";

/// What a server answers.
#[derive(Clone)]
enum Answer {
    Status(u16, Vec<(&'static str, String)>, Bytes),
    /// So many MiB of spaces, of which nothing is said before.
    Streams(usize),
    /// Begins a body, and breaks off.
    BreaksOff,
    /// Begins a body, and goes silent.
    FallsSilent,
    Hangs,
}

/// A server that answers by a script, the last answer for ever, and notes what it was asked.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    answers: Mutex<VecDeque<Answer>>,
    requests: Mutex<Vec<(Uri, HeaderMap)>>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    asked: Notify,
}

fn ok(body: impl Into<Bytes>) -> Answer {
    Answer::Status(200, vec![("content-type", "application/json".into())], body.into())
}

fn status(status: u16) -> Answer {
    Answer::Status(status, Vec::new(), Bytes::new())
}

fn with(status: u16, header: &'static str, value: impl Into<String>) -> Answer {
    Answer::Status(status, vec![(header, value.into())], Bytes::new())
}

impl Server {
    async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let state = Arc::new(State::default());
        state.answers.lock().unwrap().extend(answers);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answering = state.clone();
        let app = Router::new().fallback(move |uri: Uri, headers: HeaderMap| {
            let state = answering.clone();
            async move { state.answer(uri, headers).await }
        });
        tokio::spawn(axum::serve(listener, app).into_future());
        Self { address, state }
    }

    fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    fn client(&self) -> JobsClient {
        self.client_with(RequestBudget::new(1000.0, 4))
    }

    fn client_with(&self, budget: RequestBudget) -> JobsClient {
        let builder = JobsClient::builder(ApiKey::new(KEY).unwrap());
        builder.origin(self.origin()).budget(budget).timeout(Duration::from_secs(5)).build().unwrap()
    }

    fn paths(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().iter().map(|(uri, _)| uri.to_string()).collect()
    }

    fn requests(&self) -> usize {
        self.state.requests.lock().unwrap().len()
    }
}

impl State {
    async fn answer(&self, uri: Uri, headers: HeaderMap) -> Response<Body> {
        self.requests.lock().unwrap().push((uri, headers));
        self.asked.notify_waiters();
        let in_flight = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(in_flight, Ordering::SeqCst);
        let answer = {
            let mut answers = self.answers.lock().unwrap();
            if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() }
        };
        let response = match answer {
            Answer::Status(status, headers, body) => {
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                response.body(Body::from(body)).unwrap()
            }
            Answer::Streams(mebibytes) => {
                let (chunks, body) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
                tokio::spawn(async move {
                    for _ in 0..mebibytes {
                        let _ = chunks.send(Ok(Bytes::from(vec![b' '; 1 << 20]))).await;
                    }
                });
                Response::new(Body::new(Chunks(body)))
            }
            Answer::BreaksOff | Answer::FallsSilent => {
                // More than the server keeps back before it sends the head.
                let (chunks, body) = mpsc::channel::<Result<Bytes, std::io::Error>>(3);
                for _ in 0..2 {
                    chunks.send(Ok(Bytes::from(vec![b' '; 1 << 20]))).await.unwrap();
                }
                if matches!(answer, Answer::BreaksOff) {
                    chunks.send(Err(std::io::Error::other("broken off"))).await.unwrap();
                } else {
                    std::mem::forget(chunks);
                }
                Response::new(Body::new(Chunks(body)))
            }
            Answer::Hangs => std::future::pending().await,
        };
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        response
    }
}

/// A body out of a channel.
struct Chunks(mpsc::Receiver<Result<Bytes, std::io::Error>>);

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| chunk.map(http_body::Frame::data)))
    }
}

fn id() -> JobId {
    ID.parse().unwrap()
}

fn webhook() -> Payload {
    Payload::extract_completed().job_id(ID)
}

/// The `data` object of a webhook.
fn data(payload: &Payload) -> String {
    let body: serde_json::Value = serde_json::from_slice(&payload.to_bytes()).unwrap();
    body["data"].to_string()
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[tokio::test]
async fn a_result_is_fetched_bare_or_as_a_webhook_with_members_that_nobody_knows() {
    let webhook = webhook().set("/data/new_member", "kept");
    let bare = data(&webhook);
    let nested = webhook.clone().set("/data/data", "a member of the same name");
    let without_id = format!(r#"{{"data":{bare}}}"#);
    for body in
        [bare.clone(), without_id, data(&nested), String::from_utf8(webhook.to_bytes().into()).unwrap()]
    {
        let server = Server::start([ok(body.clone())]).await;
        let Fetched::Finished(event) = server.client().fetch(&id()).await.unwrap() else { panic!("{body}") };
        assert_eq!((event.job(), event.status().as_str()), (&id(), "completed"));
        let kept: serde_json::Value = serde_json::from_slice(event.body()).unwrap();
        assert_eq!(kept["job_id"], ID);
        assert_eq!(kept["data"]["new_member"], "kept");
        assert_eq!(server.paths(), [format!("/v1/jobs/{ID}")]);
        let headers = server.state.requests.lock().unwrap()[0].1.clone();
        assert_eq!(headers["authorization"], format!("Bearer {KEY}"));
        assert!(headers["user-agent"].to_str().unwrap().starts_with("qomplement-webhooks/"));
    }
}

#[tokio::test]
async fn a_status_that_is_not_final_is_a_job_that_still_runs() {
    for body in [
        format!(r#"{{"id":"{ID}","type":"extract","status":"processing"}}"#),
        format!(r#"{{"id":"{ID}","status":"queued"}}"#),
        r#"{"status":"queued"}"#.to_owned(),
        format!(r#"{{"job_id":"{ID}","data":{{"id":"{ID}","type":"extract","status":"processing"}}}}"#),
    ] {
        let server = Server::start([ok(body.clone())]).await;
        let fetched = server.client().fetch(&id()).await;
        assert!(matches!(fetched, Ok(Fetched::Pending)), "{body}: {fetched:?}");
    }
    let server = Server::start([status(404)]).await;
    assert!(matches!(server.client().fetch(&id()).await, Ok(Fetched::NotFound)));
}

#[tokio::test]
async fn a_reply_about_another_job_or_no_job_is_an_error_and_is_not_fetched_again() {
    let other = "7517f65e-6eaa-4961-bcce-7672e267769e";
    let twice = format!(r#"{{"id":"{ID}","id":"{other}","type":"extract","status":"completed"}}"#);
    for (body, error) in [
        (data(&webhook().job_id(other)), "job_id"),
        (String::from_utf8(webhook().job_id(other).to_bytes().into()).unwrap(), "another job"),
        (format!(r#"{{"id":"{other}","status":"processing"}}"#), "another job"),
        (format!(r#"{{"id":"{}","status":"processing"}}"#, ID.to_uppercase()), "another job"),
        (format!(r#"{{"id":"{ID}","type":"extract"}}"#), "no status"),
        (format!(r#"{{"id":"{ID}","type":"extract","status":7}}"#), "`status` is not a string"),
        (twice, ""),
        ("[]".to_owned(), "not an object"),
        ("<html>".to_owned(), "expected value"),
        (String::new(), "EOF"),
        (format!("{} ]", data(&webhook())), "trailing"),
    ] {
        let server = Server::start([ok(body.clone())]).await;
        let Err(failure @ FetchError::Unreadable(_)) = server.client().fetch(&id()).await else {
            panic!("{body} is believed")
        };
        let text = chain(&failure);
        assert!(text.contains(error), "{body}: {text}");
        assert_eq!(server.requests(), 1);
    }
    let server = Server::start([ok(Bytes::from_static(b"\xef\xbb\xbf{}"))]).await;
    assert!(matches!(server.client().fetch(&id()).await, Err(FetchError::Unreadable(_))));
}

#[tokio::test]
async fn a_failing_api_is_called_again_and_says_for_how_long_to_wait() {
    let body = data(&webhook());
    for failing in [status(500), status(502), status(503), status(429), Answer::BreaksOff] {
        let server = Server::start([failing, ok(body.clone())]).await;
        let fetched = server.client().fetch(&id()).await;
        assert!(matches!(fetched, Ok(Fetched::Finished(_))), "{fetched:?}");
        assert_eq!(server.requests(), 2);
    }
    let date = |seconds| httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(seconds));
    for (value, least, most) in
        [("77".to_owned(), 77, 77), (date(90), 85, 90), ("99999999".to_owned(), 300, 300)]
    {
        let server = Server::start([with(429, "retry-after", value.clone())]).await;
        let client = server.client();
        let Err(error) = client.fetch(&id()).await else { panic!("it was answered") };
        assert!(matches!(error, FetchError::RateLimited { .. }), "{error:?}");
        assert!(error.retry_after().is_some_and(|said| said.as_secs() >= least), "{value}: {error:?}");
        assert_eq!(server.requests(), 1, "it was asked again in spite of {value}");
        let Err(closed) = client.fetch(&id()).await else { panic!("it was answered") };
        let left = closed.retry_after().unwrap();
        assert!(left.as_secs() >= least - 5 && left.as_secs() <= most, "{value}: {left:?}");
    }
    // What is past is no time, and what is no time is none.
    for value in [date(0), "soon".to_owned()] {
        let server = Server::start([with(429, "retry-after", value), ok(body.clone())]).await;
        assert!(matches!(server.client().fetch(&id()).await, Ok(Fetched::Finished(_))));
    }
}

#[tokio::test]
async fn a_request_is_repeated_after_a_second_and_then_after_twice_as_long() {
    let server = Server::start([status(500), status(500), ok(data(&webhook()))]).await;
    let builder = JobsClient::builder(ApiKey::new(KEY).unwrap()).origin(server.origin());
    let (client, began) = (builder.build().unwrap(), Instant::now());
    assert!(matches!(client.fetch(&id()).await, Ok(Fetched::Finished(_))));
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn after_a_429_no_client_fetches_for_a_while_and_all_get_the_error() {
    let server = Server::start([with(429, "retry-after", "60")]).await;
    let client = server.client();
    let Err(first) = client.fetch(&id()).await else { panic!("it was answered") };
    assert_eq!(chain(&first), "there were too many requests");
    for _ in 0..50 {
        let Err(error) = client.clone().fetch(&id()).await else { panic!("it was answered") };
        assert!(matches!(error, FetchError::BudgetClosed(_)), "{error:?}");
        let left = error.retry_after().unwrap();
        assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");
        let text = chain(&error);
        assert!(
            text.contains("the request budget is closed for another")
                && text.contains("after: there were too many")
        );
    }
    assert_eq!(server.requests(), 1, "the API was hammered");
}

#[tokio::test]
async fn a_refused_key_is_said_clearly_and_the_api_is_not_hammered() {
    let server = Server::start([status(401)]).await;
    let client = server.client();
    let Err(first) = client.fetch(&id()).await else { panic!("it was answered") };
    assert!(matches!(first, FetchError::Unauthorized), "{first:?}");
    assert_eq!(first.to_string(), "the API key was refused");
    for _ in 0..50 {
        let Err(error) = client.fetch(&id()).await else { panic!("it was answered") };
        assert!(chain(&error).ends_with("after: the API key was refused"), "{}", chain(&error));
        assert!(matches!(client.download(&id()).await, Err(DownloadError::Fetch(_))));
    }
    assert_eq!(server.requests(), 1, "the API was hammered");
}

#[tokio::test]
async fn a_status_about_one_job_stops_no_other_fetch_and_three_in_a_row_stop_all() {
    for (number, refused) in [(400, true), (403, true), (422, true), (500, false), (503, false)] {
        let answers = [status(number), status(number), ok(data(&webhook())), status(number)];
        let server = Server::start(answers).await;
        let builder = JobsClient::builder(ApiKey::new(KEY).unwrap()).origin(server.origin());
        let budget = RequestBudget::new(1000.0, 4);
        // A request that failed is not repeated in this time.
        let client = builder.budget(budget).timeout(Duration::from_millis(900)).build().unwrap();
        let fetch = async |job: &str| client.fetch(&job.parse().unwrap()).await;
        for job in ["a", "b"] {
            let Err(error) = fetch(job).await else { panic!("it was answered") };
            assert_eq!(matches!(error, FetchError::Refused(_)), refused, "{number}: {error:?}");
            assert_eq!(matches!(error, FetchError::Unavailable { .. }), !refused, "{number}: {error:?}");
            assert!(chain(&error).contains(&number.to_string()), "{number}: {}", chain(&error));
        }
        let good = client.fetch(&id()).await;
        assert!(matches!(good, Ok(Fetched::Finished(_))), "{number}: {good:?}");
        for job in ["c", "c", "d", "e"] {
            assert!(!matches!(fetch(job).await, Err(FetchError::BudgetClosed(_))), "{number}");
        }
        assert!(matches!(fetch("f").await, Err(FetchError::BudgetClosed(_))), "{number}");
        assert_eq!(server.requests(), 7, "{number}");
    }
}

#[tokio::test]
async fn an_api_that_is_down_or_hangs_is_an_error_in_time() {
    let hanging = Server::start([Answer::Hangs]).await;
    let silent = Server::start([Answer::FallsSilent]).await;
    for server in [&hanging, &silent] {
        let builder = JobsClient::builder(ApiKey::new(KEY).unwrap()).origin(server.origin());
        let client = builder.timeout(Duration::from_millis(300)).build().unwrap();
        let began = Instant::now();
        let fetched = timeout(Duration::from_secs(10), client.fetch(&id())).await.expect("it hangs");
        assert!(matches!(fetched, Err(FetchError::Unavailable { .. })), "{fetched:?}");
        assert!(began.elapsed() >= Duration::from_millis(300));
    }
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let builder = JobsClient::builder(ApiKey::new(KEY).unwrap()).origin(format!("http://{nobody}"));
    let client = builder.timeout(Duration::from_millis(500)).build().unwrap();
    let Err(error) = client.fetch(&id()).await else { panic!("somebody answered") };
    assert!(chain(&error).contains("refused"), "{}", chain(&error));
}

#[tokio::test]
async fn an_api_with_which_no_connection_is_established_in_half_of_the_time_is_called_for_no_other_job() {
    // The system accepts the connection, and nobody answers the TLS handshake.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("https://{}", silent.local_addr().unwrap());
    // In the longer time, a second request begins, and has less than half of it.
    for timeout in [Duration::from_secs(1), Duration::from_secs(3)] {
        let builder = JobsClient::builder(ApiKey::new(KEY).unwrap()).origin(&origin);
        let client = builder.timeout(timeout).build().unwrap();
        let fetched = client.fetch(&id()).await;
        assert!(matches!(fetched, Err(FetchError::Unreachable(_))), "{timeout:?}: {fetched:?}");
        let another = client.fetch(&"another".parse().unwrap()).await;
        assert!(matches!(another, Err(FetchError::BudgetClosed(_))), "{timeout:?}: {another:?}");
    }
}

#[tokio::test]
async fn a_reply_that_is_too_large_is_refused_whatever_it_declares() {
    for large in [ok(vec![b' '; (16 << 20) + 1]), Answer::Streams(17)] {
        let server = Server::start([large]).await;
        let Err(error) = server.client().fetch(&id()).await else { panic!("it was read") };
        assert!(chain(&error).contains("more than 16777216 bytes"), "{}", chain(&error));
    }
    for largest in [ok(vec![b' '; 16 << 20]), Answer::Streams(16)] {
        let server = Server::start([largest]).await;
        let Err(error) = server.client().fetch(&id()).await else { panic!("spaces are a reply") };
        assert!(!chain(&error).contains("more than"), "{}", chain(&error));
    }
}

/// Where a key could be sent to.
fn elsewhere(attacker: SocketAddr) -> [String; 6] {
    [
        format!("http://{attacker}/v1/jobs/{ID}"),
        format!("//{attacker}/v1/jobs/{ID}"),
        format!("/\\{attacker}/v1/jobs/{ID}"),
        format!("\\\\{attacker}/v1/jobs/{ID}"),
        format!("/v1/jobs/../../%2f%2f{attacker}"),
        format!("http://user@{attacker}/"),
    ]
}

#[tokio::test]
async fn the_key_reaches_no_other_origin_by_a_redirect() {
    let attacker = Server::start([ok(data(&webhook()))]).await;
    for redirect in [301, 302, 303, 307, 308] {
        for target in elsewhere(attacker.address).into_iter().chain(["/elsewhere".to_owned()]) {
            let server = Server::start([with(redirect, "location", target.clone())]).await;
            let Err(error) = server.client().fetch(&id()).await else { panic!("{target} is followed") };
            assert!(chain(&error).contains("a redirect"), "{}", chain(&error));
            let download = server.client().download(&id()).await;
            assert!(matches!(download, Err(DownloadError::Fetch(FetchError::Unreadable(_)))), "{download:?}");
            assert_eq!(server.paths(), [format!("/v1/jobs/{ID}"), format!("/v1/jobs/{ID}/download")]);
        }
    }
    assert_eq!(attacker.requests(), 0, "the key was given away");
}

#[tokio::test]
async fn what_a_webhook_says_of_a_download_url_is_never_followed() {
    let attacker = Server::start([ok("")]).await;
    for target in elsewhere(attacker.address) {
        let payload = Payload::fill_pdf_completed().job_id(ID).set("/data/result/download_url", target);
        let event = payload.event().unwrap();
        let server = Server::start([ok("the document")]).await;
        let mut download = server.client().download(event.job().id()).await.unwrap();
        assert_eq!(download.content_length(), Some(12));
        assert!(format!("{download:?}").starts_with("Download { content_length: Some(12)"), "{download:?}");
        assert_eq!(download.chunk().await.unwrap().unwrap(), "the document");
        assert!(download.chunk().await.unwrap().is_none());
        assert_eq!(server.paths(), [format!("/v1/jobs/{ID}/download")]);
    }
    assert_eq!(attacker.requests(), 0, "the key was given away");
}

#[tokio::test]
async fn an_id_that_could_lead_elsewhere_is_not_fetched() {
    let server = Server::start([ok(data(&webhook()))]).await;
    let client = server.client();
    for id in [
        "../keys",
        "a/b",
        "..",
        ".",
        "%2e%2e",
        "a?x",
        "a#b",
        "a\\b",
        "@evil",
        "a:1",
        "a;b",
        "a b",
        "http://evil",
        "//evil",
        "a%00",
        "a.b",
        "~",
        "'",
        "\"",
    ] {
        let Ok(id) = id.parse::<JobId>() else { continue };
        assert!(matches!(client.fetch(&id).await, Err(FetchError::InvalidId)), "{id} is asked for");
        let download = client.download(&id).await;
        assert!(matches!(download, Err(DownloadError::Fetch(FetchError::InvalidId))), "{id} is asked for");
    }
    assert_eq!(server.requests(), 0);
    let longest: JobId = "x".repeat(255).parse().unwrap();
    assert!(client.fetch(&longest).await.is_err());
    assert_eq!(server.requests(), 1);
}

#[test]
fn an_origin_to_which_the_key_must_not_go_is_refused() {
    for (origin, error) in [
        ("http://developer-api.qomplement.com", "must begin with https://"),
        ("http://127.0.0.1.evil.example", "must begin with https://"),
        ("ftp://127.0.0.1", "must begin with https://"),
        ("https://user@developer-api.qomplement.com", "user name"),
        ("https://:secret@developer-api.qomplement.com", "user name"),
        ("https://developer-api.qomplement.com/v1", "path"),
        ("https://developer-api.qomplement.com/?a", "query"),
        ("https://developer-api.qomplement.com/#a", "fragment"),
        ("developer-api.qomplement.com", "not a URL"),
        ("", "not a URL"),
    ] {
        let built = JobsClient::builder(ApiKey::new(KEY).unwrap()).origin(origin).build();
        let text = built.map_err(|error| chain(&error)).unwrap_err();
        assert!(text.contains(error), "{origin}: {text}");
    }
    for origin in [JobsClient::ORIGIN, "https://localhost:8443/", "http://[::1]:3000", "http://localhost"] {
        JobsClient::builder(ApiKey::new(KEY).unwrap()).origin(origin).build().unwrap();
    }
}

#[test]
fn a_key_that_no_header_can_carry_is_refused_and_not_shown() {
    for (key, error) in [
        ("", "the API key is empty"),
        ("secret\n", "the API key has a character other than visible ASCII (position 6)"),
        (" secret", "the API key has a character other than visible ASCII (position 0)"),
        ("sécret", "the API key has a character other than visible ASCII (position 1)"),
    ] {
        assert_eq!(ApiKey::new(key).unwrap_err().to_string(), error);
    }
    let missing = ApiKey::from_env("QOMPLEMENT_WEBHOOKS_NO_SUCH_VARIABLE").unwrap_err();
    assert!(chain(&missing).contains("QOMPLEMENT_WEBHOOKS_NO_SUCH_VARIABLE"), "{}", chain(&missing));
}

/// Where lines of the log are kept.
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_key_is_in_no_log_and_no_error_and_no_debug() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let lines = log.clone();
    let collector = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || Lines(lines.clone()))
        .finish();
    // If there is only one dispatcher, tracing asks the thread that comes to a place first whether the place is on, and
    // the threads of other tests have none.
    let _another = tracing::Dispatch::new(NoSubscriber::new());
    let _collecting = collector.set_default();
    let attacker = Server::start([ok("")]).await;
    let mut shown = format!("{:?}", ApiKey::new(KEY).unwrap());
    let redirect = with(302, "location", attacker.origin());
    for answer in
        [ok(data(&webhook())), ok("[]"), status(401), status(429), status(500), redirect, Answer::BreaksOff]
    {
        let server = Server::start([answer]).await;
        let builder = JobsClient::builder(ApiKey::new(KEY).unwrap()).origin(server.origin());
        shown += &format!("{builder:?}");
        let client = builder.timeout(Duration::from_millis(300)).build().unwrap();
        shown += &format!("{client:?}");
        match client.fetch(&id()).await {
            Ok(fetched) => shown += &format!("{fetched:?}"),
            Err(error) => shown += &format!("{error:?} {}", chain(&error)),
        }
        match client.download(&id()).await {
            Ok(mut download) => {
                shown += &format!("{download:?}");
                shown += &format!("{:?}", download.chunk().await);
            }
            Err(error) => shown += &format!("{error:?} {}", chain(&error)),
        }
    }
    let logged = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("reqwest") && logged.contains("hyper"), "the libraries say nothing: {logged}");
    assert!(!logged.contains("canary-key"), "the key is in the log:\n{logged}");
    assert!(!shown.contains("canary-key"), "{shown}");
}

#[tokio::test]
async fn a_document_of_64_mib_comes_in_chunks_and_waits_for_its_reader() {
    const CHUNK: usize = 1 << 20;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let app = Router::new().fallback(move || {
        let sent = counted.clone();
        async move {
            let (chunks, body) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
            tokio::spawn(async move {
                for _ in 0..64 {
                    if chunks.send(Ok(Bytes::from(vec![7; CHUNK]))).await.is_err() {
                        return;
                    }
                    sent.fetch_add(CHUNK, Ordering::SeqCst);
                }
            });
            Response::builder()
                .header("content-type", "application/pdf")
                .body(Body::new(Chunks(body)))
                .unwrap()
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, app).into_future());
    let client = JobsClient::builder(ApiKey::new(KEY).unwrap()).origin(origin).build().unwrap();

    let mut download = client.download(&id()).await.unwrap();
    assert_eq!((download.content_type(), download.content_length()), (Some("application/pdf"), None));
    let mut read = 0;
    let mut most_ahead = 0;
    while let Some(chunk) = download.chunk().await.unwrap() {
        read += chunk.len();
        most_ahead = most_ahead.max(sent.load(Ordering::SeqCst).saturating_sub(read));
    }
    assert_eq!(read, 64 * CHUNK);
    assert!(most_ahead <= 16 * CHUNK, "{most_ahead} bytes were taken before they were asked for");
}

#[tokio::test]
async fn a_document_that_breaks_off_or_falls_silent_is_an_error() {
    let server = Server::start([Answer::BreaksOff]).await;
    let mut download = server.client().download(&id()).await.unwrap();
    let broken = loop {
        match download.chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("half a document was taken for the whole"),
            Err(error) => break error,
        }
    };
    assert!(matches!(broken, DownloadError::BrokeOff(_)), "{broken:?}");

    let server = Server::start([Answer::FallsSilent]).await;
    let builder = JobsClient::builder(ApiKey::new(KEY).unwrap()).origin(server.origin());
    let client = builder.timeout(Duration::from_millis(200)).build().unwrap();
    let mut download = client.download(&id()).await.unwrap();
    let silent = timeout(Duration::from_secs(10), async {
        while download.chunk().await?.is_some() {}
        Ok::<_, DownloadError>(())
    });
    let silent = silent.await.expect("it hangs");
    assert!(matches!(silent, Err(DownloadError::BrokeOff(_))), "{silent:?}");

    let server = Server::start([status(404)]).await;
    assert!(matches!(server.client().download(&id()).await, Err(DownloadError::NotFound)));
}

#[tokio::test]
async fn clones_and_clients_that_share_a_budget_stay_within_it_together() {
    let server = Server::start([ok(data(&webhook()))]).await;
    let budget = RequestBudget::new(20.0, 4);
    let clients = [server.client_with(budget.clone()), server.client_with(budget)];
    let began = Instant::now();
    let mut fetches = tokio::task::JoinSet::new();
    for number in 0..60 {
        let client = clients[number % 2].clone();
        fetches.spawn(async move { client.fetch(&id()).await.map(drop) });
    }
    for fetched in fetches.join_all().await {
        fetched.unwrap();
    }
    // One second's worth is saved up at the most.
    assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
    assert!(server.state.most_in_flight.load(Ordering::SeqCst) <= 4);
}

//! The inbox page: shows an inbox in a browser, replays and discards.
//!
//! [`InboxPage`] takes requests and returns answers, like the receiver, and the same adapters mount it. All of its views
//! have one path: mount it for all methods of a path that is your own. The [guide](crate::guide::page) shows it.

mod access;
mod actions;
mod body;
mod confirm;
mod csrf;
mod detail;
mod filter;
mod frame;
mod hidden;
mod list;
mod moment;
mod overview;
mod problem;
mod reply;
mod route;
mod rows;
mod shown;
mod traffic;

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::ACCEPT;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::Full;
use tokio::time::{Instant, timeout};
use tracing::{error, warn};

use self::access::AccessCheck;
pub use self::access::PageAccess;
use self::csrf::FormToken;
use self::frame::Visit;
#[doc(hidden)]
pub use self::hidden::is_hidden;
use self::moment::Now;
use self::problem::Problem;
use self::reply::Reply;
use self::route::{Fields, View};
use crate::error::{BoxError, chain};
use crate::execution::isolation::call;
use crate::fetch::{JobSource, RequestBudget};
use crate::inbox::{InboxAdmin, Redaction};
use crate::store::StoreError;

/// Shows an inbox in a browser: counts, rows, bodies and errors. Replays events, discards dead letters and fetches jobs.
///
/// The page is closed by default: an access closure decides about every request, from its head, before anything else is
/// looked at. Mount the page for all methods of one path, as you mount a [`WebhookReceiver`](crate::WebhookReceiver), or
/// pass requests to [`answer`](Self::answer). Cheap to clone.
///
/// # Security
///
/// - An action needs [`PageAccess::Full`], a request that the page itself sent (`Sec-Fetch-Site` or `Origin`), and the token
///   of the visit's form. Each action is logged at `INFO`, with the name from the closure.
/// - No script, style or picture from elsewhere is loaded, and none stands in the page. No cache keeps a page.
/// - Ids, errors and bodies are foreign text: they are escaped, and characters that a browser would obey or hide are shown
///   as `\u{…}`.
/// - Bodies are shown only on demand, and as [`redact`](Self::redact) leaves them.
///
/// A request with `Accept: application/json` is answered with the same data in JSON.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "axum")] fn app(inbox: qomplement_webhooks::MemoryInbox) -> axum::Router {
/// use axum::{Router, routing::any};
/// use qomplement_webhooks::page::{InboxPage, PageAccess};
///
/// // Behind a proxy that authenticates people, and sets this header.
/// let page = InboxPage::new(inbox, |head| async move {
///     match head.headers.get("x-user").and_then(|user| user.to_str().ok()) {
///         Some("ops") => PageAccess::full("ops"),
///         Some(user) => PageAccess::read_only(user),
///         None => PageAccess::Forbidden,
///     }
/// });
/// let app: Router = Router::new().route("/admin/inbox", any(page));
/// # app }
/// ```
#[derive(Clone)]
pub struct InboxPage {
    inbox: Arc<dyn InboxAdmin>,
    access: AccessCheck,
    redaction: Option<Redaction>,
    source: Option<Arc<dyn JobSource>>,
    budget: Option<RequestBudget>,
}

/// The time limit of one call of the inbox.
const CALL_TIME: Duration = Duration::from_secs(10);
/// The largest form, in bytes, and the longest time that it takes to arrive.
const MOST_FORM: usize = 16 << 10;
const FORM_TIME: Duration = Duration::from_secs(10);

impl InboxPage {
    /// Makes the page of an inbox. The closure gets the head of each request, and returns who sent it and what they may
    /// do. A request is answered 503 if the closure panics, or takes longer than 10 s.
    #[must_use]
    pub fn new<F, Fut>(inbox: impl InboxAdmin, access: F) -> Self
    where
        F: Fn(Parts) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = PageAccess> + Send + 'static,
    {
        Self {
            inbox: Arc::new(inbox),
            access: AccessCheck::new(access),
            redaction: None,
            source: None,
            budget: None,
        }
    }

    /// Hides parts of bodies, in the view and in the download. A body that is not JSON is then not shown at all.
    #[must_use]
    pub fn redact(mut self, redaction: Redaction) -> Self {
        self.redaction = Some(redaction);
        self
    }

    /// Offers to fetch a job from the API at once. The event of a job that has ended is stored as if its webhook had come.
    #[must_use]
    pub fn source(mut self, source: impl JobSource) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Shows whether the budget of requests to the API is open; if it is not, until when and why.
    #[must_use]
    pub fn budget(mut self, budget: RequestBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Answers a request.
    ///
    /// Needs a tokio runtime. An action that takes longer than 30 s, or whose client leaves, goes on in that runtime.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        self.answered(request, |response| response).await
    }

    /// [`answer`](Self::answer) for adapters, as a future that owns the page and makes the adapter's answer.
    pub(crate) fn answered<B, T>(
        &self,
        request: Request<B>,
        answer: fn(Response<Full<Bytes>>) -> T,
    ) -> impl Future<Output = T> + use<B, T>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let (page, (head, body)) = (self.clone(), request.into_parts());
        async move {
            let as_json = wants_json(&head);
            let reply = match page.visit(&head).await {
                // The same for every target, method and format.
                Err(problem) => Reply::problem(problem, false),
                Ok(visit) => {
                    let reply = match head.method {
                        Method::GET | Method::HEAD => page.show(&head, &visit).await,
                        Method::POST => page.act(&head, body, &visit).await,
                        _ => Err(Problem::MethodNotAllowed),
                    };
                    let reply = reply.unwrap_or_else(|problem| Reply::problem(problem, as_json));
                    reply.with_cookie(&visit.token)
                }
            };
            answer(reply.into_response())
        }
    }

    /// Lets a request in, or not.
    async fn visit(&self, head: &Parts) -> Result<Visit, Problem> {
        let access = self.access.of(head).await.map_err(|error| {
            error!(error = %chain(&error), "the access closure of the inbox page failed; answering 503");
            Problem::Unavailable
        })?;
        let (name, may_act) = match access {
            PageAccess::Forbidden => return Err(Problem::Forbidden),
            PageAccess::ReadOnly { name } => (name, false),
            PageAccess::Full { name } => (name, true),
        };
        let token = FormToken::of(head).map_err(|error| {
            error!(error = %chain(&error), "the inbox page has no token for its forms; answering 503");
            Problem::Unavailable
        })?;
        Ok(Visit { name, may_act, token, as_json: wants_json(head), now: Now::new() })
    }

    /// Answers a GET.
    async fn show(&self, head: &Parts, visit: &Visit) -> Result<Reply, Problem> {
        let reply = match View::of(head)? {
            View::Overview => self.overview(visit).await?,
            View::List(query) => self.list(visit, &query).await?,
            View::Job(query) => self.job(visit, &query).await?,
            View::Body(job) => self.body(visit, &job).await?,
            View::Confirm(action, target) => self.confirm(visit, action, target).await?,
            View::Asset(name) => Reply::asset(&name)?,
        };
        Ok(reply.unless_known(head))
    }

    /// Answers a POST: carries out an action, if it comes from a form of this page.
    async fn act<B>(&self, head: &Parts, body: B, visit: &Visit) -> Result<Reply, Problem>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        if !visit.may_act {
            return Err(Problem::ReadOnly);
        }
        let action = route::action(head)?;
        if !csrf::is_same_origin(head) {
            warn!(who = ?visit.name, action = action.as_str(), "an action on the inbox did not come from its page; refused");
            return Err(Problem::Forged);
        }
        let form = timeout(FORM_TIME, read_form(body)).await.ok().flatten().ok_or(Problem::Form)?;
        let fields = Fields(&form);
        if !csrf::is_own_form(head, &fields.get("token").unwrap_or_default()) {
            warn!(who = ?visit.name, action = action.as_str(), "an action on the inbox has not the token of its form; refused");
            return Err(Problem::Forged);
        }
        self.carry_out(visit, action, fields.target()?, &fields).await
    }

    /// The body as it may leave the server: its own bytes without a redaction.
    fn redacted(&self, body: Bytes) -> Result<Bytes, Problem> {
        match &self.redaction {
            None => Ok(body),
            Some(redaction) => {
                let shown = redaction.apply(&body).ok_or(Problem::NotRedacted)?;
                Ok(shown.to_string().into())
            }
        }
    }

    /// Calls the inbox, within a time.
    async fn call<T, F>(&self, make: impl FnOnce() -> F) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        call(|| Instant::now() + CALL_TIME, make).await.map_err(|error| {
            error!(error = %chain(&error), "the inbox did not answer its page");
            Problem::Unavailable
        })
    }
}

/// The bytes of a form; `None` if it is too large, or breaks off.
async fn read_form<B: Body>(body: B) -> Option<Bytes> {
    let (mut body, mut form) = (pin!(body), BytesMut::new());
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        if data.remaining() > MOST_FORM - form.len() {
            return None;
        }
        form.put(data);
    }
    Some(form.freeze())
}

/// Whether the client prefers JSON to a page: a browser always names HTML.
fn wants_json(head: &Parts) -> bool {
    let names = |kind: &str| {
        let mut values = head.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.contains(kind))
    };
    names("application/json") && !names("text/html")
}

impl fmt::Debug for InboxPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxPage")
            .field("inbox", &self.inbox)
            .field("redaction", &self.redaction)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

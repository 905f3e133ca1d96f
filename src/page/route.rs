//! The page's URLs. All views have one path, and differ in the query: so a page is mounted with one route, every link is
//! relative, and neither a prefix nor a slash at the end matters.

use http::Method;
use http::request::Parts;

use super::filter::RowFilter;
use super::problem::Problem;
use crate::JobId;

/// The view that a GET asks for.
#[derive(Debug, PartialEq)]
pub(super) enum View {
    Overview,
    List(ListQuery),
    Job(JobQuery),
    /// The body of a job's event, as a file.
    Body(JobId),
    /// The question before an action.
    Confirm(Action, Target),
    Asset(String),
}

/// A page of the list.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct ListQuery {
    pub(super) filter: RowFilter,
    /// Rows that arrived before this number; `None` for the newest.
    pub(super) before: Option<u64>,
    pub(super) did: Option<Did>,
}

#[derive(Debug, PartialEq)]
pub(super) struct JobQuery {
    pub(super) job: JobId,
    pub(super) with_body: bool,
    pub(super) back: RowFilter,
    pub(super) did: Option<Did>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Replay,
    Discard,
    /// Fetches a job from the API.
    Fetch,
}

/// The rows of an action.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Target {
    /// One row. `back` selects the list that it was opened from.
    Job { job: JobId, back: RowFilter },
    /// The rows that match.
    Matching(RowFilter),
}

/// The outcome of the action before, in the URL that the action redirects to. Made of numbers and fixed words, since
/// anybody can write a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Did {
    Changed { action: Action, rows: u64, more: bool },
    Fetched(FetchedAs),
}

/// The answer to a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FetchedAs {
    /// The job has ended, and its event is stored.
    Stored,
    /// The job has ended, and its event was there before.
    Known,
    Pending,
    NotFound,
    Failed,
}

impl Action {
    const ALL: [Self; 3] = [Self::Replay, Self::Discard, Self::Fetch];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard => "discard",
            Self::Fetch => "fetch",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        Self::ALL.into_iter().find(|action| action.as_str() == text).ok_or(Problem::NoSuchPage)
    }
}

impl FetchedAs {
    const ALL: [Self; 5] = [Self::Stored, Self::Known, Self::Pending, Self::NotFound, Self::Failed];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Known => "known",
            Self::Pending => "pending",
            Self::NotFound => "not_found",
            Self::Failed => "failed",
        }
    }
}

/// The names and values of a query or a form.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    /// The value of a field. Not given, empty and blank are the same, as a browser sends every field of a form.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let (_, value) = form_urlencoded::parse(self.0).find(|(given, _)| given == name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        let number = |value: String| value.parse().map_err(|_| Problem::Field("a number"));
        self.get(name).map(number).transpose()
    }

    fn job(&self) -> Result<Option<JobId>, Problem> {
        self.get("job").map(|job| job.parse().map_err(|_| Problem::Field("a job id"))).transpose()
    }

    fn filter(&self) -> Result<RowFilter, Problem> {
        RowFilter::parse(self)
    }

    /// The list that a job was opened from.
    fn back(&self) -> Result<RowFilter, Problem> {
        Fields(self.get("back").unwrap_or_default().as_bytes()).filter()
    }

    /// The rows of an action.
    pub(super) fn target(&self) -> Result<Target, Problem> {
        match self.job()? {
            Some(job) => Ok(Target::Job { job, back: self.back()? }),
            None => Ok(Target::Matching(self.filter()?)),
        }
    }

    fn did(&self) -> Option<Did> {
        let did = self.get("did")?;
        if let Some(answer) = FetchedAs::ALL.into_iter().find(|answer| answer.as_str() == did) {
            return Some(Did::Fetched(answer));
        }
        let action = Action::parse(&did).ok()?;
        Some(Did::Changed { action, rows: self.number("rows").ok()??, more: self.get("more").is_some() })
    }
}

impl View {
    /// The view of a GET.
    pub(super) fn of(head: &Parts) -> Result<Self, Problem> {
        let fields = Fields(head.uri.query().unwrap_or_default().as_bytes());
        if let Some(asset) = fields.get("asset") {
            return Ok(Self::Asset(asset));
        }
        let job = || fields.job()?.ok_or(Problem::Field("a job id"));
        Ok(match fields.get("view").as_deref() {
            None => Self::Overview,
            Some("list") => Self::List(ListQuery {
                filter: fields.filter()?,
                before: fields.number("before")?,
                did: fields.did(),
            }),
            Some("job") => Self::Job(JobQuery {
                job: job()?,
                with_body: fields.get("body").is_some(),
                back: fields.back()?,
                did: fields.did(),
            }),
            Some("body") => Self::Body(job()?),
            Some("confirm") => {
                Self::Confirm(Action::parse(&fields.get("action").unwrap_or_default())?, fields.target()?)
            }
            Some(_) => return Err(Problem::NoSuchPage),
        })
    }
}

/// The action that a POST asks for.
pub(super) fn action(head: &Parts) -> Result<Action, Problem> {
    debug_assert_eq!(head.method, Method::POST);
    Action::parse(&Fields(head.uri.query().unwrap_or_default().as_bytes()).get("do").unwrap_or_default())
}

/// Writes queries.
pub(super) struct Link(form_urlencoded::Serializer<'static, String>);

impl Link {
    pub(super) fn list(filter: &RowFilter) -> Self {
        let mut link = Self::view("list");
        filter.write(&mut link.0);
        link
    }

    pub(super) fn job(job: &JobId, back: &RowFilter) -> Self {
        let link = Self::view("job").with("job", &job.as_str());
        match back.to_query() {
            back if back.is_empty() => link,
            back => link.with("back", &back),
        }
    }

    pub(super) fn body(job: &JobId) -> Self {
        Self::view("body").with("job", &job.as_str())
    }

    pub(super) fn confirm(action: Action, target: &Target) -> Self {
        let mut link = Self::view("confirm").with("action", action.as_str());
        match target {
            Target::Job { job, back } => {
                let link = link.with("job", &job.as_str());
                match back.to_query() {
                    back if back.is_empty() => link,
                    back => link.with("back", &back),
                }
            }
            Target::Matching(filter) => {
                filter.write(&mut link.0);
                link
            }
        }
    }

    fn view(view: &str) -> Self {
        let mut query = form_urlencoded::Serializer::for_suffix(String::from("?"), 1);
        query.append_pair("view", view);
        Self(query)
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.0.append_pair(name, value);
        self
    }

    pub(super) fn did(self, did: Did) -> Self {
        match did {
            Did::Fetched(answer) => self.with("did", answer.as_str()),
            Did::Changed { action, rows, more } => {
                let link = self.with("did", action.as_str()).with("rows", &rows.to_string());
                if more { link.with("more", "1") } else { link }
            }
        }
    }

    /// The link, relative to the page.
    pub(super) fn finish(mut self) -> String {
        self.0.finish()
    }
}

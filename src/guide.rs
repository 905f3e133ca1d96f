//! The guide, from the choice of a mode to operation: an hour's reading.
//!
//! | you want to | chapter |
//! |---|---|
//! | choose between inline and durable, and write a handler | [`modes`] |
//! | store events before they are acknowledged | [`durable`] |
//! | get every result, also those whose webhook is lost or forged | [`never_lose_a_result`] |
//! | run inline receivers in several processes | [`dedup_stores`] |
//! | mount the receiver in any framework | [`frameworks`] |
//! | look up the answer to a request | [`answers`] |
//! | keep forged webhooks out, rotate the token | [`security`] |
//! | deploy, watch, size, back up | [`operating`] |
//! | plan for more than one machine's webhooks | [`scaling`] |
//! | see events in a browser, replay and discard them | [`page`] |
//! | send, watch and replay from a terminal | [`command_line`] |
//! | test your handler, or a store of your own | [`testing`] |
//! | see how each promise is tested | [`evidence`] |
//! | look up a word | [`glossary`] |
//! | read a whole program | [`examples`] |
//!
//! The chapters are the files in the repository's folder `docs`. This module exists only in the documentation.

// Chapters link to each other by references such as `[durable][durable]`. Their last lines define each reference as a
// file, for readers on a Git host. Markdown uses the first of two definitions, so these come first for rustdoc.
macro_rules! links {
    () => {
        "[answers]: crate::guide::answers
[command-line]: crate::guide::command_line
[dedup-stores]: crate::guide::dedup_stores
[durable]: crate::guide::durable
[evidence]: crate::guide::evidence
[frameworks]: crate::guide::frameworks
[glossary]: crate::guide::glossary
[modes]: crate::guide::modes
[never-lose-a-result]: crate::guide::never_lose_a_result
[operating]: crate::guide::operating
[scaling]: crate::guide::scaling
[page]: crate::guide::page
[security]: crate::guide::security
[testing]: crate::guide::testing
[expected]: crate::guide::never_lose_a_result#expected-jobs
[join]: crate::guide::durable#join-your-own-transaction
[never-arrived]: crate::guide::page#a-document-never-arrived
[no-lease]: crate::guide::operating#no-worker-leases-events
[not-acknowledged]: crate::guide::operating#webhooks-are-not-acknowledged
[overdue]: crate::guide::operating#overdue-jobs-are-not-fetched
[alerts]: crate::guide::examples#alert-rules
[dashboards]: crate::guide::examples#alert-rules
[example-compose]: crate::guide::examples#containers
[example-custom]: crate::guide::examples#a-dedup-store-of-your-own
[example-durable]: crate::guide::examples#durable
[example-metrics]: crate::guide::examples#metrics
[example-page]: crate::guide::examples#inbox-page
[example-never-lose]: crate::guide::examples#never-lose-a-result
[example-several-accounts]: crate::guide::examples#several-accounts
[example-shutdown]: crate::guide::examples#graceful-shutdown
"
    };
}

macro_rules! chapters {
    ($($name:ident: $file:literal,)+) => {$(
        #[doc = links!()]
        #[doc = include_str!(concat!("../docs/", $file))]
        pub mod $name {}
    )+};
}

chapters! {
    modes: "modes.md",
    durable: "durable.md",
    never_lose_a_result: "never-lose-a-result.md",
    dedup_stores: "dedup-stores.md",
    frameworks: "frameworks.md",
    answers: "answers.md",
    security: "security.md",
    operating: "operating.md",
    scaling: "scaling.md",
    page: "page.md",
    command_line: "command-line.md",
    testing: "testing.md",
    evidence: "evidence.md",
    glossary: "glossary.md",
}

/// The examples that the chapters link to. They are files in the repository's folder `examples`.
///
/// # Graceful shutdown
///
/// ```rust,ignore
#[doc = include_str!("../examples/graceful_shutdown.rs")]
/// ```
///
/// # Durable
///
/// ```rust,ignore
#[doc = include_str!("../examples/durable.rs")]
/// ```
///
/// # Inbox page
///
/// ```rust,ignore
#[doc = include_str!("../examples/inbox_page.rs")]
/// ```
///
/// # Never lose a result
///
/// The stand-in for the API, `mod api`, is beside this file in the repository.
///
/// ```rust,ignore
#[doc = include_str!("../examples/never_lose_a_result/main.rs")]
/// ```
///
/// # Several accounts
///
/// ```rust,ignore
#[doc = include_str!("../examples/several_accounts.rs")]
/// ```
///
/// # A dedup store of your own
///
/// ```rust,ignore
#[doc = include_str!("../examples/custom_dedup_store.rs")]
/// ```
///
/// # Metrics
///
/// ```rust,ignore
#[doc = include_str!("../examples/metrics.rs")]
/// ```
///
/// # Alert rules
///
/// A Grafana dashboard is beside this file, in the repository's folder `dashboards`.
///
/// ```yaml
#[doc = include_str!("../dashboards/alerts.yml")]
/// ```
///
/// # Containers
///
/// ```yaml
#[doc = include_str!("../examples/compose.yaml")]
/// ```
pub mod examples {}

//! Requests that lead to no view.

use http::StatusCode;

/// The reason for an answer without a view. Quotes nothing of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Problem {
    Forbidden,
    /// An action without the right to act.
    ReadOnly,
    /// A form of another site, or of a visit whose cookie is gone.
    Forged,
    NoSuchPage,
    NoSuchJob,
    NoBody,
    MethodNotAllowed,
    /// A field holds something else than this.
    Field(&'static str),
    /// An action on all rows of a state that it does not apply to.
    State,
    /// The form is too large, or did not arrive.
    Form,
    /// The redaction lets nothing of the body be shown.
    NotRedacted,
    /// The inbox, or the access closure, failed or did not answer.
    Unavailable,
    /// An action failed, and may have changed rows before.
    InDoubt,
    /// An action goes on without the request.
    GoesOn,
}

impl Problem {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Forbidden | Self::ReadOnly | Self::Forged => StatusCode::FORBIDDEN,
            Self::NoSuchPage | Self::NoSuchJob | Self::NoBody => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Field(_) | Self::State | Self::Form => StatusCode::BAD_REQUEST,
            Self::NotRedacted => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unavailable | Self::InDoubt | Self::GoesOn => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The problem in JSON.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::ReadOnly => "read_only",
            Self::Forged => "forged",
            Self::NoSuchPage => "no_such_page",
            Self::NoSuchJob => "no_such_job",
            Self::NoBody => "no_body",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Field(_) => "invalid_field",
            Self::State => "invalid_state",
            Self::Form => "invalid_form",
            Self::NotRedacted => "not_redacted",
            Self::Unavailable => "unavailable",
            Self::InDoubt => "in_doubt",
            Self::GoesOn => "goes_on",
        }
    }

    /// The message for people, with a remedy.
    pub(super) fn message(self) -> String {
        let message = match self {
            Self::Forbidden => "This page is closed to you.",
            Self::ReadOnly => "You may look, and change nothing.",
            Self::Forged => {
                "The form was not sent by this page, or its cookie is gone. Nothing was changed. Open the page again and repeat the action."
            }
            Self::NoSuchPage => "There is no such page.",
            Self::NoSuchJob => {
                "The inbox has no row for this job: no webhook of it has arrived and it is not registered, or its row was discarded or pruned. To fetch its result from the API: qomplement-webhooks fetch JOB_ID."
            }
            Self::NoBody => "The row has no body: its event is expected, or the body was pruned.",
            Self::MethodNotAllowed => "The page takes GET and POST.",
            Self::Field(expected) => {
                return format!("A field does not hold {expected}. Go back and correct it.");
            }
            Self::State => {
                "Only dead letters can be discarded, and only dead or done events replayed. Go back and select a state."
            }
            Self::Form => "The form is too large, or did not arrive. Nothing was changed.",
            Self::NotRedacted => {
                "The body cannot be redacted, so it is not shown: it is not JSON, or the redaction failed."
            }
            Self::Unavailable => {
                "The request failed, or took too long. The server's log has the cause. Try again."
            }
            Self::InDoubt => {
                "The action failed, and may have been carried out, in whole or in part. Look at the rows before you repeat it. The server's log has the cause."
            }
            Self::GoesOn => {
                "The action takes longer than this page waits, and goes on. The server's log will have its outcome."
            }
        };
        message.to_owned()
    }
}

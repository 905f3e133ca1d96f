//! The requests and answers of the library's own tests.
#![allow(dead_code)]

#[path = "../../../../tests/it/support/answers.rs"]
pub mod answers;
#[path = "../../../../tests/it/support/http.rs"]
pub mod http;
#[path = "../../../../tests/it/support/requests.rs"]
mod requests;

pub use self::requests::{PATH, TOKEN};

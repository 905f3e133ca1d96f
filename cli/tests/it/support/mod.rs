//! The helpers that these tests share with the library's.
#![allow(dead_code)]

#[path = "../../../../tests/it/support/databases.rs"]
pub mod databases;
#[path = "../../../../tests/it/support/requests.rs"]
mod requests;
#[path = "../../../../tests/it/support/script.rs"]
mod script;
#[path = "../../../../tests/it/support/servers.rs"]
pub mod servers;

pub use self::requests::{PATH, TOKEN};
pub use self::script::{Act, Script};

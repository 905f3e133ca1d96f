//! A server to try things on, with warp. The tests and the benchmarks run it, too.
//!
//! ```sh
//! WEBHOOK_TOKEN=$(openssl rand -hex 32) cargo run --example warp --features warp
//! ```
//!
//! - `ADDR`: the address to listen on, `127.0.0.1:3000` unless set.
//! - `WEBHOOK_TOKEN`: the token that webhooks must carry; anyone may deliver when it is unset.
//! - `DEDUP_URL`: the dedup store, `redis://…` or `postgres://…` when built with that feature; in memory when it is
//!   unset.
//! - Webhooks go to `/api/webhooks/qomplement?token=…`.
//! - Each call of the handler prints a line to stdout: `handled EVENT JOB_ID`. `FAIL_PERCENT` and `WORK_MS` make
//!   calls fail, and take time.
//! - SIGINT and SIGTERM stop it when the work under way has ended.

use std::convert::Infallible;
use std::process::ExitCode;

use qomplement_webhooks::BoxError;
use qomplement_webhooks::warp::webhook;
use warp::Filter;

use self::grace::until_stopped;
use self::inline::{receiver, shutdown};
use self::support::{listen, run, stop};

#[path = "support/grace.rs"]
mod grace;
#[path = "support/inline.rs"]
mod inline;
mod support;

async fn serve() -> Result<(), BoxError> {
    let receiver = receiver().await?;
    let routes = warp::path!("api" / "webhooks" / "qomplement").and(webhook(receiver.clone()));
    let server = warp::serve(routes).incoming(listen("http").await?).graceful(stop()).run();
    let server = async {
        server.await;
        Ok::<_, Infallible>(())
    };
    until_stopped(server).await?;
    shutdown(&receiver).await;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    run(serve()).await
}

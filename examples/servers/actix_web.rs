//! A server to try things on, with actix-web. The tests and the benchmarks run it, too.
//!
//! ```sh
//! WEBHOOK_TOKEN=$(openssl rand -hex 32) cargo run --example actix_web --features actix-web
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

use std::process::ExitCode;

use actix_web::{App, HttpServer, web};
use qomplement_webhooks::BoxError;

use self::inline::{receiver, shutdown};
use self::support::{listen, run, stop};

#[path = "support/inline.rs"]
mod inline;
mod support;

async fn serve() -> Result<(), BoxError> {
    let receiver = receiver().await?;
    let mounted = receiver.clone();
    let app = move || App::new().route("/api/webhooks/qomplement", web::to(mounted.clone()));
    let listener = listen("http").await?.into_std()?;
    let server = HttpServer::new(app).disable_signals().listen(listener)?.run();
    let (handle, server) = (server.handle(), tokio::spawn(server));
    stop().await;
    // Before the server: its workers end the tasks of requests that have ended.
    shutdown(&receiver).await;
    handle.stop(true).await;
    server.await??;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    run(serve()).await
}

//! `inbox serve`: shows an inbox in a browser of this machine.

mod log;
mod session;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use qomplement_webhooks::page::{InboxPage, PageAccess};
use tokio::net::TcpStream;

use self::log::Log;
use self::session::Session;
use crate::arguments::number;
use crate::database::DatabaseArgs;
use crate::failure::Failure;
use crate::listen::bind;
use crate::output;
use crate::stop::stop;

/// Show an inbox in a browser, replay and discard events there
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox serve --db inbox.db
  qomplement-webhooks inbox serve --db inbox.db --port 8080 --read-only

The page is on this machine's loopback address alone, until Ctrl-C. The printed
link opens it once: the first browser that follows it is let in, and no other.
Each action is a line on standard error, with your name from $USER.
On another machine, forward the port with `ssh -L 8080:127.0.0.1:8080 HOST` and
--port 8080.")]
pub(super) struct Serve {
    #[command(flatten)]
    database: DatabaseArgs,

    /// The port; 0 picks a free one
    #[arg(long, short, default_value_t = 0, value_parser = |text: &str| number::<u16>(text, 0..=65535))]
    port: u16,

    /// Show only: refuse every action
    #[arg(long)]
    read_only: bool,
}

impl Serve {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let inbox = self.database.open().await?;
        Log::start();
        let session = Arc::new(Session::new()?);
        let (of, read_only) = (session.clone(), self.read_only);
        let page = InboxPage::new(inbox, move |head| {
            let (session, user) = (of.clone(), user());
            async move {
                match session.has(&head) {
                    false => PageAccess::Forbidden,
                    true if read_only => PageAccess::read_only(user),
                    true => PageAccess::full(user),
                }
            }
        });
        let (listener, address) = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).await?;
        let mut stopped = std::pin::pin!(stop());
        output::note("open this link, which works once; Ctrl-C ends the page");
        output::line(session.link(address));
        loop {
            tokio::select! {
                () = &mut stopped => return Ok(ExitCode::SUCCESS),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(tokio::spawn(serve(stream, session.clone(), page.clone()))),
                    Err(error) => {
                        output::warning(format_args!("cannot accept a connection: {error}; retrying in 100 ms"));
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }
}

async fn serve(stream: TcpStream, session: Arc<Session>, page: InboxPage) {
    let service = service_fn(|request| async {
        Ok::<_, Infallible>(match session.answer(&request) {
            Some(answer) => answer,
            None => page.answer(request).await,
        })
    });
    // An error comes from the client: it disconnected, or sent something other than HTTP.
    let _ =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// The name in the page's corner.
fn user() -> String {
    std::env::var("USER").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "this machine".to_owned())
}

//! `listen`: a server that shows webhooks and answers them.

mod server;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use clap::Args;
use http::StatusCode;
use humantime::format_rfc3339_seconds;
use qomplement_webhooks::{SharedToken, WebhookReceiver, handler_fn};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use self::server::{Arrival, Forwarder, Refused, Server, Webhook};
use crate::arguments::{address, http_url, number, time};
use crate::causes::causes;
use crate::failure::Failure;
use crate::output::{self, COLUMNS, Format, Line, clean, cut};
use crate::redact::RedactArgs;
use crate::secret::{self, TokenArgs};
use crate::stop::stop;

/// Show webhooks as they arrive, and answer them
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks listen
  qomplement-webhooks listen --whole --type extract --status failed
  qomplement-webhooks listen --fail-first 2 --delay 1s
  qomplement-webhooks listen --forward http://127.0.0.1:8080/webhooks

Receives on every path. The answers are those of this library: 401 without the
token, 400 or 422 for an invalid webhook, 200 otherwise. WEBHOOK_TOKEN,
--token-file or --token make the token required, and add it to the URL of
--forward unless that has one; without a token, every client may deliver.
--type and --status select the webhooks to show; all are answered and
forwarded.

A line shows the time (UTC), the answer, the type, the status and the job id;
#2 marks the second delivery of a job's event. Refused requests appear on
standard error.

--format json prints one object per line:
  time, job_id, type, status: strings
  delivery, answer: numbers
  forwarded: the status that the other server answered; null without --forward
    or an answer
  body: the event, or null if --redact hides all of it")]
pub(crate) struct Listen {
    /// The port; 0 picks a free one
    #[arg(long, short, default_value_t = 3000, value_parser = |text: &str| number::<u16>(text, 0..=65535))]
    port: u16,

    /// The IP address; 0.0.0.0 for all addresses of this machine
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_parser = address)]
    host: IpAddr,

    #[command(flatten)]
    token: TokenArgs,

    /// Show the whole body of each event
    #[arg(long, conflicts_with = "format")]
    whole: bool,

    #[command(flatten)]
    redact: RedactArgs,

    /// Show only events of these types, such as extract,fill_pdf
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,

    /// Show only events with these statuses, such as completed,failed
    #[arg(long = "status", value_name = "STATUS", value_delimiter = ',')]
    statuses: Vec<String>,

    /// Answer the first deliveries of each job's event with 503
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = |text: &str| number::<u32>(text, 0..))]
    fail_first: u32,

    /// Wait before each answer, such as 500ms or 6s
    #[arg(long, value_name = "TIME", value_parser = time)]
    delay: Option<Duration>,

    /// Deliver each webhook to another URL, too, and pass its answer on
    #[arg(long, value_name = "URL")]
    forward: Option<String>,

    /// The output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Listens on an address. Returns the address with the port that was picked.
pub(crate) async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let tip = match error.kind() {
            io::ErrorKind::AddrInUse => "Another program uses the port: stop it, or give another --port",
            io::ErrorKind::PermissionDenied => "Ports below 1024 need a privilege: give another --port",
            io::ErrorKind::AddrNotAvailable => "This machine does not have the address: give another --host",
            _ => "Give another --host or --port",
        };
        Failure::failed(format!("cannot listen on {address}: {error}\n  {tip}"))
    })?;
    let address = listener.local_addr().unwrap_or(address);
    Ok((listener, address))
}

/// The most arrivals that wait to be shown.
const UNSHOWN: usize = 1024;

#[derive(Default)]
struct Counts {
    webhooks: u64,
    refused: u64,
}

impl Listen {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let token = self.token.read()?;
        let is_open = token.is_none();
        let address = SocketAddr::new(self.host, self.port);
        let forwarder = self.forwarder(token.clone())?;
        let receiver = WebhookReceiver::builder(handler_fn(|_| async { Ok(()) }).with_unrecognized());
        let receiver = match token {
            Some(token) => receiver.token(token),
            None => receiver.unauthenticated(),
        };
        let receiver = receiver.build().map_err(|error| Failure::failed(causes(&error)))?;
        let (listener, address) = bind(address).await?;
        let mut stopped = std::pin::pin!(stop());
        output::note(format_args!("listening on http://{address}"));
        if is_open && !self.host.is_loopback() {
            output::warning(format_args!(
                "other machines can reach this address, and no token is required\n  Set {}, or leave out --host",
                secret::TOKEN
            ));
        }

        let (arrivals, mut to_show) = mpsc::channel(UNSHOWN);
        let server = Arc::new(Server {
            receiver,
            fail_first: self.fail_first,
            delay: self.delay,
            forwarder,
            deliveries: Mutex::default(),
            arrivals,
        });
        let mut counts = Counts::default();
        loop {
            tokio::select! {
                () = &mut stopped => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(tokio::spawn(server.clone().serve(stream))),
                    // Too many open files, for example, until connections end.
                    Err(error) => {
                        output::warning(format_args!("cannot accept a connection: {error}; retrying in 100 ms"));
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(arrival) = to_show.recv() => {
                    self.show_arrival(&arrival, &mut counts);
                    // Without output and forwarding, an acknowledged webhook would be lost.
                    if output::is_closed() && self.forward.is_none() {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
            }
        }
        // The clients of these already have their answers.
        while let Ok(arrival) = to_show.try_recv() {
            self.show_arrival(&arrival, &mut counts);
        }
        output::note(format_args!(
            "{}, {} refused",
            output::count(counts.webhooks, "webhook", "webhooks"),
            output::count(counts.refused, "request", "requests")
        ));
        Ok(ExitCode::SUCCESS)
    }

    fn forwarder(&self, token: Option<SharedToken>) -> Result<Option<Forwarder>, Failure> {
        let Some(url) = &self.forward else { return Ok(None) };
        const EXAMPLE: &str = "http://127.0.0.1:8080/webhooks";
        http_url("--forward", url, EXAMPLE)?;
        let url = secret::url_with_token("--forward", url, token)?;
        let url = http_url("--forward", &url, EXAMPLE)?;
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build();
        let client = client.map_err(|error| Failure::failed(causes(&error)))?;
        Ok(Some(Forwarder { client, url }))
    }

    fn show_arrival(&self, arrival: &Arrival, counts: &mut Counts) {
        match arrival {
            Arrival::Refused(request) => {
                counts.refused += 1;
                show_refused(request);
            }
            Arrival::Webhook(webhook) => {
                counts.webhooks += 1;
                self.show_webhook(webhook);
            }
        }
    }

    fn show_webhook(&self, webhook: &Webhook) {
        let Webhook { event, delivery, answer, forwarded } = webhook;
        let (job_type, status) = (event.job_type().as_str(), event.status().as_str());
        let wanted = |only: &[String], found| only.is_empty() || only.iter().any(|only| only == found);
        if !wanted(&self.types, job_type) || !wanted(&self.statuses, status) {
            return;
        }
        if self.format == Format::Json {
            let members = json!({
                "time": format_rfc3339_seconds(SystemTime::now()).to_string(),
                "job_id": event.job().to_string(),
                "type": job_type,
                "status": status,
                "delivery": delivery,
                "answer": answer.as_u16(),
                "forwarded": forwarded.as_ref().and_then(|forwarded| forwarded.as_ref().ok()).map(StatusCode::as_u16),
            });
            let body = self.redact.shown(event.body());
            return output::json_with_body(&members, body.as_deref());
        }
        let painted = Line::styled(answer.as_u16(), |text| match answer.is_success() {
            true => text.green(),
            false => text.red(),
        });
        let event_shown =
            format!("  {}  {}  {}", clean(job_type), clean(status), clean(&event.job().to_string()));
        let mut line = Line::from(now()).and("  ").and(painted).and(event_shown);
        let nth = (*delivery > 1).then(|| format!("#{delivery}"));
        let forwarded = forwarded.as_ref().map(|forwarded| match forwarded {
            Ok(status) => format!("forwarded: {}", status.as_u16()),
            Err(error) => format!("not forwarded: {error}"),
        });
        for more in nth.into_iter().chain(forwarded) {
            let space = if line.width() + 2 + more.len() > COLUMNS { "\n    " } else { "  " };
            line = line.and(space).and(clean(&more));
        }
        output::line(line);
        if self.whole
            && let Some(body) = self.redact.shown(event.body())
        {
            output::body(&body, "--format json");
        }
    }
}

/// Shows a refused request on standard error.
fn show_refused(refused: &Refused) {
    let status = Line::styled(refused.answer.as_u16(), |text| text.red().for_stderr());
    let request = format!("  {}  {}", cut(&refused.request, 200), clean(&refused.code));
    output::note(Line::from(now()).and("  ").and(status).and(request));
}

/// The time of day in UTC.
fn now() -> String {
    let time = format_rfc3339_seconds(SystemTime::now()).to_string();
    time.split_once('T').map_or(time.as_str(), |(_, time)| time).to_owned()
}

//! One server of each framework, for each kind of handler.

use std::convert::Infallible;
use std::hint::black_box;

use actix_web::{App, HttpResponse, HttpServer, web};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, any, post};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use qomplement_webhooks::{WebhookEvent, WebhookReceiver, handler_fn};
use serde::de::IgnoredAny;
use tokio::net::TcpListener;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use warp::Filter;

pub const FRAMEWORKS: [&str; 4] = ["axum", "actix-web", "warp", "hyper"];
const ANSWER: &str = r#"{"received":true}"#;

/// What a server does with a webhook before it answers 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It reads the body.
    Bare,
    /// It reads the body and skips over it with serde_json.
    Scan,
    /// It reads the body into the types that one would derive.
    Typed,
    /// It reads the body into a [`WebhookEvent`].
    Event,
    /// It is the receiver, without a token.
    Anyone,
    /// It is the receiver.
    Receiver,
    /// It is the receiver, in a program with a tracing subscriber at `INFO` that writes text.
    Spans,
    /// The same, without colours.
    Plain,
    /// It is the receiver, in a program with a tracing subscriber at `INFO` that keeps the spans and does nothing.
    Layer,
}

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::Bare,
        Self::Scan,
        Self::Typed,
        Self::Event,
        Self::Anyone,
        Self::Receiver,
        Self::Spans,
        Self::Plain,
        Self::Layer,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Scan => "bare with a scan",
            Self::Typed => "typed",
            Self::Event => "bare with an event",
            Self::Anyone => "receiver without a token",
            Self::Receiver => "receiver",
            Self::Spans => "receiver with spans",
            Self::Plain => "receiver with plain spans",
            Self::Layer => "receiver with idle spans",
        }
    }

    pub fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.name() == name).expect("no such kind of server")
    }

    fn receiver(self) -> Option<WebhookReceiver> {
        let handler = handler_fn(|event| async move {
            black_box(event);
            Ok(())
        });
        let receiver = WebhookReceiver::builder(handler);
        let receiver = match self {
            Self::Anyone => receiver.unauthenticated(),
            Self::Receiver | Self::Spans | Self::Plain | Self::Layer => {
                receiver.token(super::served::token())
            }
            Self::Bare | Self::Scan | Self::Typed | Self::Event => return None,
        };
        Some(receiver.build().unwrap())
    }

    /// The work of a handler by hand.
    fn handle(self, body: &Bytes) {
        match self {
            Self::Scan => drop(serde_json::from_slice::<IgnoredAny>(body).unwrap()),
            Self::Typed => drop(black_box(super::typed::read(body))),
            Self::Event => drop(black_box(WebhookEvent::try_from(body.clone()).unwrap())),
            _ => drop(black_box(body)),
        }
    }
}

/// Does nothing with a span.
struct Idle;

impl<S: tracing::Subscriber> Layer<S> for Idle {}

/// Serves until the process ends. Prints the address first.
pub async fn serve(framework: &str, kind: Kind) {
    match kind {
        Kind::Spans => tracing_subscriber::fmt().with_writer(std::io::sink).init(),
        Kind::Plain => tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::sink).init(),
        Kind::Layer => tracing_subscriber::registry().with(LevelFilter::INFO).with(Idle).init(),
        _ => {}
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    match framework {
        "axum" => serve_axum(listener, kind).await,
        "actix-web" => serve_actix(listener, kind).await,
        "warp" => serve_warp(listener, kind).await,
        "hyper" => serve_hyper(listener, kind).await,
        other => panic!("no such framework: {other}"),
    }
}

async fn serve_axum(listener: TcpListener, kind: Kind) {
    const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
    let route: MethodRouter = match kind.receiver() {
        Some(receiver) => any(receiver),
        None => post(async move |body: Bytes| {
            kind.handle(&body);
            (JSON, ANSWER)
        }),
    };
    let app = Router::new().route("/webhook", route).layer(DefaultBodyLimit::disable());
    axum::serve(listener, app).await.unwrap();
}

async fn serve_actix(listener: TcpListener, kind: Kind) {
    let answer = || HttpResponse::Ok().content_type("application/json").body(ANSWER);
    let receiver = kind.receiver();
    let app = move || {
        let route = match receiver.clone() {
            Some(receiver) => web::to(receiver),
            None => web::post().to(move |body: Bytes| async move {
                kind.handle(&body);
                answer()
            }),
        };
        App::new().app_data(web::PayloadConfig::new(16 << 20)).route("/webhook", route)
    };
    let server = HttpServer::new(app).workers(1).listen(listener.into_std().unwrap()).unwrap();
    server.run().await.unwrap();
}

async fn serve_warp(listener: TcpListener, kind: Kind) {
    let answer = || warp::reply::with_header(ANSWER, "content-type", "application/json");
    let path = warp::path!("webhook");
    match kind.receiver() {
        Some(receiver) => {
            let route = path.and(qomplement_webhooks::warp::webhook(receiver));
            warp::serve(route).incoming(listener).run().await;
        }
        None => {
            let route = path.and(warp::post()).and(warp::body::bytes()).map(move |body: Bytes| {
                kind.handle(&body);
                answer()
            });
            warp::serve(route).incoming(listener).run().await;
        }
    }
}

async fn serve_hyper(listener: TcpListener, kind: Kind) {
    let receiver = kind.receiver();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let receiver = receiver.clone();
        tokio::spawn(async move {
            let (server, io) = (http1::Builder::new(), TokioIo::new(stream));
            let _ = match receiver {
                Some(receiver) => server.serve_connection(io, receiver).await,
                None => server.serve_connection(io, service_fn(|request| by_hand(request, kind))).await,
            };
        });
    }
}

async fn by_hand(request: Request<Incoming>, kind: Kind) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    kind.handle(&body);
    let mut response = Response::new(Full::from(ANSWER));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

//! A stand-in for the API that has the result of every job, and is away from time to time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use qomplement_webhooks::sender::Payload;
use serde_json::Value;
use tokio::net::TcpListener;

#[derive(Clone, Default)]
pub struct Api(Arc<AtomicBool>);

impl Api {
    /// Starts it, and returns it with its origin.
    pub async fn start() -> (Self, String) {
        let api = Self::default();
        let app = Router::new().route("/v1/jobs/{id}", get(Self::job)).with_state(api.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, app).into_future());
        (api, origin)
    }

    pub fn is_away(&self, away: bool) {
        self.0.store(away, Ordering::SeqCst);
    }

    async fn job(State(api): State<Self>, Path(id): Path<String>) -> Response {
        if api.0.load(Ordering::SeqCst) {
            return StatusCode::BAD_GATEWAY.into_response();
        }
        let body = Payload::extract_completed().job_id(id).to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        ([(header::CONTENT_TYPE, "application/json")], body["data"].to_string()).into_response()
    }
}

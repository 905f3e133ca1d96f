//! A stand-in for Qomplement's API, as far as its documentation goes: jobs that run for a while, their results by
//! GET, filled documents to download, and webhooks on the documented schedule.

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use qomplement_webhooks::JobType;
use qomplement_webhooks::sender::{Payload, Sender};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// How long a job runs.
const JOB_TIME: Duration = Duration::from_millis(300);

/// The API. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api(Arc<Inner>);

struct Inner {
    key: String,
    jobs: Mutex<HashMap<String, Job>>,
    loses_webhooks: AtomicBool,
    requests: AtomicUsize,
}

/// A job, and its result when it has ended.
#[derive(Clone)]
struct Job {
    job_type: JobType,
    result: Option<Value>,
}

impl Api {
    /// Starts the API on this machine, and returns it with its origin.
    pub(crate) async fn start(key: &str) -> Result<(Self, String), Box<dyn Error>> {
        let inner = Inner {
            key: format!("Bearer {key}"),
            jobs: Mutex::default(),
            loses_webhooks: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
        };
        let api = Self(Arc::new(inner));
        let app = Router::new()
            .route("/v1/extract", post(Self::extract))
            .route("/v1/fill-pdf", post(Self::fill_pdf))
            .route("/v1/fill-excel", post(Self::fill_excel))
            .route("/v1/jobs/{id}", get(Self::job))
            .route("/v1/jobs/{id}/download", get(Self::download))
            .layer(middleware::from_fn_with_state(api.clone(), Self::authenticate))
            .with_state(api.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let origin = format!("http://{}", listener.local_addr()?);
        tokio::spawn(axum::serve(listener, app).into_future());
        Ok((api, origin))
    }

    /// From now on, no webhook arrives.
    pub(crate) fn lose_webhooks(&self) {
        self.0.loses_webhooks.store(true, Ordering::Relaxed);
    }

    /// The number of requests for a job.
    pub(crate) fn requests(&self) -> usize {
        self.0.requests.load(Ordering::Relaxed)
    }

    async fn authenticate(State(api): State<Self>, request: Request, next: Next) -> Response {
        let key = request.headers().get(header::AUTHORIZATION);
        if key.is_some_and(|key| key == api.0.key.as_str()) {
            return next.run(request).await;
        }
        StatusCode::UNAUTHORIZED.into_response()
    }

    async fn extract(api: State<Self>, query: RawQuery) -> Response {
        Self::submit(api, query, Payload::extract_completed(), JobType::Extract)
    }

    async fn fill_pdf(api: State<Self>, query: RawQuery) -> Response {
        Self::submit(api, query, Payload::fill_pdf_completed(), JobType::FillPdf)
    }

    async fn fill_excel(api: State<Self>, query: RawQuery) -> Response {
        Self::submit(api, query, Payload::fill_excel_completed(), JobType::FillExcel)
    }

    /// Starts a job that ends as the documentation shows it.
    fn submit(
        State(api): State<Self>,
        RawQuery(query): RawQuery,
        payload: Payload,
        job_type: JobType,
    ) -> Response {
        let Ok(event) = payload.event() else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
        let id = event.job().id().to_string();
        api.set(&id, Job { job_type, result: None });
        let answer = answer(&json!({"id": id, "status": "processing"}));
        let query = query.unwrap_or_default();
        let webhook_url = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "webhook_url");
        let webhook_url = webhook_url.map(|(_, url)| url.into_owned());
        tokio::spawn(async move { api.run(id, payload, webhook_url).await });
        answer
    }

    async fn run(self, id: String, payload: Payload, webhook_url: Option<String>) {
        tokio::time::sleep(JOB_TIME).await;
        let body = payload.set("/data/result/download_url", format!("/v1/jobs/{id}/download")).to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if let Some(job) = self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&id) {
            job.result = Some(body["data"].clone());
        }
        if self.0.loses_webhooks.load(Ordering::Relaxed) {
            return;
        }
        if let Some(Ok(sender)) = webhook_url.map(Sender::to_url) {
            sender.deliver(Bytes::from(body.to_string())).await;
        }
    }

    async fn job(State(api): State<Self>, Path(id): Path<String>) -> Response {
        api.0.requests.fetch_add(1, Ordering::Relaxed);
        match api.get(&id) {
            Some(Job { result: Some(result), .. }) => answer(&result),
            Some(Job { job_type, .. }) => {
                answer(&json!({"id": id, "type": job_type.as_str(), "status": "processing"}))
            }
            None => StatusCode::NOT_FOUND.into_response(),
        }
    }

    async fn download(State(api): State<Self>, Path(id): Path<String>) -> Response {
        match api.get(&id) {
            Some(Job { result: Some(_), job_type: JobType::FillPdf }) => {
                ([(header::CONTENT_TYPE, "application/pdf")], "%PDF-1.7 a filled form").into_response()
            }
            Some(Job { result: Some(_), job_type: JobType::FillExcel }) => "a filled sheet".into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }

    fn get(&self, id: &str) -> Option<Job> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn set(&self, id: &str, job: Job) {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), job);
    }
}

fn answer(json: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], json.to_string()).into_response()
}

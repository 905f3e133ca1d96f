//! A server of each framework, with the receiver mounted as its users mount it.

use std::convert::Infallible;
use std::net::SocketAddr;

use actix_web::web::Payload;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use axum::Router;
use axum::routing::any;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use qomplement_webhooks::WebhookReceiver;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Reply;

use crate::support::PATH;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framework {
    Axum,
    ActixWeb,
    Warp,
    Hyper,
}

impl Framework {
    pub const ALL: [Self; 4] = [Self::Axum, Self::ActixWeb, Self::Warp, Self::Hyper];
}

/// A server on a free port. It ends on drop.
pub struct Server {
    pub address: SocketAddr,
    running: Running,
}

enum Running {
    Task(AbortHandle),
    Actix(actix_web::dev::ServerHandle),
}

impl Server {
    pub async fn start(framework: Framework, receiver: WebhookReceiver) -> Self {
        let filter = qomplement_webhooks::warp::webhook(receiver.clone()).map(Reply::into_response).boxed();
        Self::mount(framework, receiver, filter).await
    }

    /// A server with the inbox page on the same path.
    #[allow(dead_code)]
    pub async fn start_page(framework: Framework, page: qomplement_webhooks::page::InboxPage) -> Self {
        let filter = qomplement_webhooks::warp::page(page.clone()).map(Reply::into_response).boxed();
        Self::mount(framework, page, filter).await
    }

    async fn mount<M, T>(
        framework: Framework,
        mounted: M,
        filter: BoxedFilter<(warp::reply::Response,)>,
    ) -> Self
    where
        M: axum::handler::Handler<T, ()>
            + actix_web::Handler<(HttpRequest, Payload), Output = HttpResponse>
            + Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        <M as Service<Request<Incoming>>>::Future: Send,
        T: 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = match framework {
            Framework::Axum => {
                let app = Router::new().route(PATH, any(mounted));
                let app = app.clone().nest("/tenant", app);
                tokio::spawn(axum::serve(listener, app).into_future()).abort_handle()
            }
            Framework::Warp => {
                let route = warp::path!("api" / "webhooks" / "qomplement").and(filter);
                let route = warp::path("tenant").and(route.clone()).or(route);
                tokio::spawn(warp::serve(route).incoming(listener).run()).abort_handle()
            }
            Framework::Hyper => tokio::spawn(serve_hyper(listener, mounted)).abort_handle(),
            Framework::ActixWeb => {
                let running = Running::Actix(serve_actix(listener.into_std().unwrap(), mounted));
                return Self { address, running };
            }
        };
        Self { address, running: Running::Task(task) }
    }

    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }
}

async fn serve_hyper<M>(listener: TcpListener, mounted: M)
where
    M: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    M::Future: Send,
{
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let mounted = mounted.clone();
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), mounted).await;
        });
    }
}

/// A server in threads of its own, as actix-web needs them.
fn serve_actix<M>(listener: std::net::TcpListener, mounted: M) -> actix_web::dev::ServerHandle
where
    M: actix_web::Handler<(HttpRequest, Payload), Output = HttpResponse> + Send + 'static,
{
    let (handle, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let app = move || {
                let route = || actix_web::web::to(mounted.clone());
                App::new().route(PATH, route()).service(actix_web::web::scope("/tenant").route(PATH, route()))
            };
            let server =
                HttpServer::new(app).workers(1).disable_signals().listen_auto_h2c(listener).unwrap().run();
            handle.send(server.handle()).unwrap();
            server.await.unwrap();
        });
    });
    started.recv().unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        match &self.running {
            Running::Task(task) => task.abort(),
            Running::Actix(handle) => drop(handle.stop(false)),
        }
    }
}

//! A network between a store and its server that loses replies or goes silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Passes bytes on to a server. On demand, it passes one request on, waits for the reply, and closes the
/// connection instead of passing the reply back.
#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    server: Arc<AtomicU16>,
    lose_reply: Arc<AtomicBool>,
    lost: Arc<AtomicUsize>,
    silent: Arc<AtomicBool>,
}

impl Proxy {
    pub async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            server: Arc::new(server.into()),
            lose_reply: Arc::default(),
            lost: Arc::default(),
            silent: Arc::default(),
        };
        let passing = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let port = passing.server.load(Ordering::SeqCst);
                tokio::spawn(passing.clone().pass(client, SocketAddr::from(([127, 0, 0, 1], port))));
            }
        });
        proxy
    }

    /// Leads new connections to another server, and keeps the existing ones.
    pub fn lead_to(&self, port: u16) {
        self.server.store(port, Ordering::SeqCst);
    }

    pub fn lose_the_next_reply(&self) {
        self.lose_reply.store(true, Ordering::SeqCst);
    }

    /// The number of lost replies.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }

    /// Stops passing bytes on, and keeps the connections open.
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    async fn pass(self, mut client: TcpStream, server: SocketAddr) {
        let mut server = TcpStream::connect(server).await.unwrap();
        let (mut request, mut reply) = ([0; 16_384], [0; 16_384]);
        loop {
            tokio::select! {
                read = client.read(&mut request) => match read {
                    _ if self.silent.load(Ordering::SeqCst) => std::future::pending().await,
                    Ok(1..) => server.write_all(&request[..read.unwrap()]).await.unwrap(),
                    _ => return,
                },
                read = server.read(&mut reply) => match read {
                    _ if self.silent.load(Ordering::SeqCst) => std::future::pending().await,
                    Ok(1..) if self.lose_reply.swap(false, Ordering::SeqCst) => {
                        self.lost.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    Ok(1..) => client.write_all(&reply[..read.unwrap()]).await.unwrap(),
                    _ => return,
                },
            }
        }
    }
}

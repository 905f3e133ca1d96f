//! Inbox rows written by hand, as a reference for the stores: no check for duplicates, no limits, no answers; 64 rows a
//! commit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::sender::Payload;
use rusqlite::{Connection, TransactionBehavior, params};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// Rows in one commit.
pub const BATCH: usize = 64;

/// A folder that is removed on drop.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("qomplement-webhooks-bench-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A UUID. As with the ids of jobs, its order is not that of arrival.
pub fn id(number: u64) -> String {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{:08x}-41d4-4716-a716-{number:012x}", mixed >> 32)
}

/// The documented extraction for some jobs, made larger.
pub fn events(numbers: std::ops::Range<u64>, padding: usize) -> Vec<Envelope> {
    let mut payload = Payload::extract_completed();
    if padding > 0 {
        payload = payload.set("/data/result/padding", "x".repeat(padding));
    }
    numbers
        .map(|number| {
            Envelope::try_from(Bytes::from(payload.clone().job_id(id(number)).to_bytes().to_vec())).unwrap()
        })
        .collect()
}

/// Letters that compress about as well as the fields of a document.
pub fn text(length: usize) -> Arc<str> {
    let mut state = 1_u64;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        format!("field_{}:value {:x} ", state >> 54, state >> 32)
    });
    let mut text = String::new();
    for word in words {
        if text.len() + word.len() > length {
            break;
        }
        text.push_str(&word);
    }
    text.into()
}

/// Writes into the tables of a `SqliteInbox`, with prepared statements.
pub fn sqlite(file: &Path, events: &[Envelope]) {
    let mut connection = Connection::open(file).unwrap();
    connection.execute_batch("PRAGMA synchronous = FULL").unwrap();
    for batch in events.chunks(BATCH) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as i64;
        let mut row = transaction
            .prepare_cached(
                "INSERT INTO inbox (job_id, state, due_at, job_type, status, bytes, received_at)
                VALUES (?1, 'received', ?5, ?2, ?3, ?4, ?5) ON CONFLICT (job_id) DO NOTHING",
            )
            .unwrap();
        let mut body =
            transaction.prepare_cached("INSERT INTO inbox_body (id, body) VALUES (?1, ?2)").unwrap();
        for event in batch {
            let (job, bytes) = (event.job().to_string(), event.body().as_ref());
            let written = row
                .execute(params![
                    job,
                    event.job_type().as_str(),
                    event.status().as_str(),
                    bytes.len() as i64,
                    now
                ])
                .unwrap();
            assert_eq!(written, 1);
            body.execute(params![transaction.last_insert_rowid(), bytes]).unwrap();
        }
        drop((row, body));
        transaction.commit().unwrap();
    }
}

/// Writes into the table of a `PostgresInbox`, with an unprepared statement: a pooler allows no other.
pub async fn postgres(client: &Client, table: &str, events: &[Envelope]) {
    let insert = format!(
        "INSERT INTO {table} (job_id, job_type, status, body, state, due_at, received_at)
        SELECT job_id, 'extract', 'completed', body, 'received', now(), now()
        FROM unnest($1::text[], $2::bytea[]) AS event (job_id, body)"
    );
    for batch in events.chunks(BATCH) {
        let ids: Vec<_> = batch.iter().map(|event| event.job().to_string()).collect();
        let bodies: Vec<&[u8]> = batch.iter().map(|event| &**event.body()).collect();
        let written =
            client.execute_typed(&insert, &[(&ids, Type::TEXT_ARRAY), (&bodies, Type::BYTEA_ARRAY)]).await;
        assert_eq!(written.unwrap(), batch.len() as u64);
    }
}

pub fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

//! The memory that remembered jobs take.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::{DedupStore, MemoryDedupStore};

use crate::process::resident;
use crate::webhook::id;

pub const STORES: [&str; 3] =
    ["ours, MemoryDedupStore", "Mutex<HashMap<String, Instant>>", "DashMap<String, Instant>"];

/// Remembers jobs, and prints the bytes by which this process grew.
pub fn remember(name: &str, jobs: u64) {
    let before = resident();
    match name {
        "ours, MemoryDedupStore" => crate::runtime().block_on(async {
            let store = MemoryDedupStore::new();
            for number in 0..jobs {
                let token = ClaimToken::new(&id(number).parse().unwrap());
                let claim = store.claim(&token, Duration::from_secs(5)).await.unwrap();
                assert!(matches!(claim, Claim::Acquired));
                let completed = store.complete(&token, Duration::from_secs(7 * 86_400)).await.unwrap();
                assert_eq!(completed, Fenced::Applied);
            }
            println!("{}", resident() - before);
            drop(store);
        }),
        "Mutex<HashMap<String, Instant>>" => {
            let store = Mutex::new(HashMap::new());
            for number in 0..jobs {
                store.lock().unwrap().insert(id(number), Instant::now());
            }
            println!("{}", resident() - before);
            drop(store);
        }
        "DashMap<String, Instant>" => {
            let store = DashMap::new();
            for number in 0..jobs {
                store.insert(id(number), Instant::now());
            }
            println!("{}", resident() - before);
            drop(store);
        }
        other => panic!("no such store: {other}"),
    }
}

//! Faults in the calls of a store.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use qomplement_webhooks::store::StoreError;
use tokio::sync::Notify;

use super::script::busy;

/// A fault in a call of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The store is not reachable.
    Error,
    /// The write takes place, and its reply is lost.
    ReplyLost,
    /// Neither a write nor a reply.
    Hang,
    /// The write takes place, and no reply ever arrives.
    HangAfter,
    Panic,
    /// The write takes place half a second later.
    Brief,
    /// The write takes place 1.9 seconds later.
    Slow,
    /// The write takes place, and the process stops for a minute of the paused clock before it gets the reply.
    StandStill,
    /// The write takes place, and a signal stops the process for this number of seconds before it gets the reply.
    Stop(u8),
    /// The call is always ready, and never ends.
    Busy,
    /// The write takes place 8 seconds later, after the deadline of every request.
    Late,
}

pub const FAULTS: [Fault; 5] = [Fault::Error, Fault::ReplyLost, Fault::Hang, Fault::HangAfter, Fault::Panic];

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    Claim,
    Renew,
    Complete,
    Release,
    Receive,
    Lease,
    Begin,
    Verify,
    Settle,
    Overdue,
    Prune,
    List,
    Stats,
    Wait,
}

/// The faults of a store's next calls, and the calls so far.
#[derive(Debug, Default)]
pub struct Faults {
    /// The faults of the next calls of each kind; `None` for a call that goes well.
    planned: Mutex<HashMap<Call, Vec<Option<Fault>>>>,
    calls: Mutex<Vec<Call>>,
    longest: Mutex<Duration>,
    changed: Notify,
}

impl Faults {
    /// Lets the next calls of a kind fail.
    pub fn fail(&self, call: Call, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.planned.lock().unwrap().entry(call).or_default().extend(faults);
    }

    /// Lets the calls of a kind succeed from now on.
    pub fn mend(&self, call: Call) {
        self.planned.lock().unwrap().remove(&call);
    }

    pub fn calls(&self, call: Call) -> usize {
        self.calls.lock().unwrap().iter().filter(|&&other| other == call).count()
    }

    /// Notes a duration that a call was given.
    pub fn given(&self, duration: Duration) {
        let mut longest = self.longest.lock().unwrap();
        *longest = duration.max(*longest);
    }

    /// The longest duration that a call was given.
    pub fn longest(&self) -> Duration {
        *self.longest.lock().unwrap()
    }

    /// Waits until a kind of call was made a number of times, for at most a minute by tokio's clock.
    pub async fn until(&self, call: Call, times: usize) {
        let wait = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if self.calls(call) >= times {
                    return;
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
        waited.unwrap_or_else(|_| panic!("waited for {times} calls of {call:?}"));
    }

    pub async fn call<T>(
        &self,
        call: Call,
        write: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fault = {
            let mut planned = self.planned.lock().unwrap();
            let planned = planned.entry(call).or_default();
            if planned.is_empty() { None } else { planned.remove(0) }
        };
        match fault {
            Some(Fault::Brief) => tokio::time::sleep(Duration::from_millis(500)).await,
            Some(Fault::Slow) => tokio::time::sleep(Duration::from_millis(1900)).await,
            Some(Fault::Late) => tokio::time::sleep(Duration::from_secs(8)).await,
            _ => {}
        }
        let result = match fault {
            Some(Fault::Error | Fault::Hang | Fault::Panic | Fault::Busy) => None,
            _ => Some(write.await),
        };
        self.calls.lock().unwrap().push(call);
        self.changed.notify_waiters();
        match fault {
            Some(Fault::StandStill) => tokio::time::advance(Duration::from_secs(60)).await,
            Some(Fault::Stop(seconds)) => stop_for(seconds),
            Some(Fault::Busy) => busy().await,
            _ => {}
        }
        match (fault, result) {
            (
                None | Some(Fault::Brief | Fault::Slow | Fault::Late | Fault::StandStill | Fault::Stop(_)),
                Some(result),
            ) => result,
            (Some(Fault::Hang | Fault::HangAfter), _) => std::future::pending().await,
            (Some(Fault::Panic), _) => panic!("a store's bug"),
            _ => Err(StoreError::unavailable(format!("{call:?} fails by plan"))),
        }
    }
}

/// Stops this process by a signal, and lets another process make it go on.
fn stop_for(seconds: u8) {
    let script = format!("kill -STOP $0; sleep {seconds}; kill -CONT $0");
    let shell = Command::new("sh").args(["-c", &script, &std::process::id().to_string()]).status();
    assert!(shell.unwrap().success(), "the process was not stopped");
}

//! The run that each example goes through, whatever its driver: submissions and handlers that commit and that do not,
//! and two runs of one event at once.

use std::sync::Arc;
use std::time::Duration;

use qomplement_webhooks::inbox::{InboxAdmin, InboxState};
use qomplement_webhooks::sender::{Payload, Sender};
use qomplement_webhooks::worker::RunningWorker;
use qomplement_webhooks::{
    BoxError, HandlerError, InboxWorker, Job, JobId, PostgresInbox, Verification, WebhookEvent,
    WebhookReceiver, handler_fn,
};
use tokio::sync::{Barrier, mpsc};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls};

/// A booking of an unknown job fails, and only at the commit. Nothing here keeps a job from being booked twice.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS submissions (job_id text PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS bookings (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job_id text NOT NULL REFERENCES submissions DEFERRABLE INITIALLY DEFERRED
    );
";
const PATIENCE: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(5);

/// The time within which the webhook of a job should come.
pub const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// The code of a user, with the user's driver.
pub trait Books: Clone + Send + Sync + 'static {
    /// Stores a submission and registers its job, in one transaction.
    fn submit(&self, inbox: &PostgresInbox, job: &JobId)
    -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Books a job's result and completes its event, in one transaction.
    fn book(&self, inbox: &PostgresInbox, job: &Job)
    -> impl Future<Output = Result<(), HandlerError>> + Send;
}

/// Runs an example on the database at a URL, and prints each fact that holds.
///
/// # Errors
///
/// Returns an error if a fact does not hold.
pub async fn run(books: impl Books, url: &str) -> Result<(), BoxError> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(TABLES).await?;
    let inbox = PostgresInbox::from_url(url)?;
    inbox.migrate().await?;
    let receiver = WebhookReceiver::durable(inbox.clone()).unauthenticated().build()?;
    let office = Office { books, inbox, client, sender: Sender::to_service(receiver) };
    office.submits_and_registers().await?;
    office.handles_and_completes().await?;
    office.rolls_back().await?;
    office.runs_twice().await
}

struct Office<B> {
    books: B,
    inbox: PostgresInbox,
    client: Client,
    sender: Sender,
}

impl<B: Books> Office<B> {
    async fn submits_and_registers(&self) -> Result<(), BoxError> {
        let job = job(&Payload::extract_completed())?;
        let full = self.inbox.clone().max_unfinished_rows(0);
        let refused = self.books.submit(&full, &job).await;
        check("a full inbox refuses a job", refused.is_err())?;
        let neither = self.state(&job).await?.is_none() && self.submissions(&job).await? == 0;
        check("and its submission is rolled back", neither)?;
        self.books.submit(&self.inbox, &job).await?;
        let both =
            self.state(&job).await? == Some(InboxState::Expected) && self.submissions(&job).await? == 1;
        check("a job is registered and its submission stored", both)
    }

    async fn handles_and_completes(&self) -> Result<(), BoxError> {
        let webhook = Payload::extract_completed();
        let job = job(&webhook)?;
        self.books.submit(&self.inbox, &job).await?;
        check("its webhook is acknowledged", self.sender.deliver(&webhook).await.is_delivered())?;
        let worker = self.worker(None);
        self.until_done(&job).await?;
        worker.shutdown(SOON).await;
        check("its event is done and booked once", self.bookings(&job).await? == 1)
    }

    async fn rolls_back(&self) -> Result<(), BoxError> {
        let webhook = Payload::extract_completed();
        let job = job(&webhook)?;
        check("a webhook is faster than its submission", self.sender.deliver(&webhook).await.is_delivered())?;
        let (ran, mut runs) = mpsc::unbounded_channel();
        let worker = self.worker(Some((ran, Arc::new(Barrier::new(1)))));
        let first = [timeout(PATIENCE, runs.recv()).await?, timeout(PATIENCE, runs.recv()).await?];
        check("its booking fails at the commit", first == [Some(Ran::Begun), Some(Ran::Failed)])?;
        let neither = self.state(&job).await? != Some(InboxState::Done) && self.bookings(&job).await? == 0;
        check("and its completion is rolled back", neither)?;
        self.books.submit(&self.inbox, &job).await?;
        self.until_done(&job).await?;
        worker.shutdown(SOON).await;
        check("the next attempt books it once", self.bookings(&job).await? == 1)
    }

    async fn runs_twice(&self) -> Result<(), BoxError> {
        let webhook = Payload::extract_completed();
        let job = job(&webhook)?;
        self.books.submit(&self.inbox, &job).await?;
        self.sender.deliver(&webhook).await;
        let (ran, mut runs) = mpsc::unbounded_channel();
        let both = Arc::new(Barrier::new(2));
        let first = self.worker(Some((ran.clone(), both.clone())));
        let begun = timeout(PATIENCE, runs.recv()).await?;
        check("a run begins", begun == Some(Ran::Begun))?;
        // As if its process had been stopped for longer than its lease.
        let end_the_lease = "UPDATE qomplement_inbox SET due_at = now() WHERE job_id = $1";
        self.client.execute(end_the_lease, &[&job.to_string()]).await?;
        let second = self.worker(Some((ran, both)));
        let mut ended = Vec::new();
        while ended.len() < 2 {
            match timeout(PATIENCE, runs.recv()).await?.ok_or("the workers have ended")? {
                Ran::Begun => {}
                ran => ended.push(ran),
            }
        }
        self.until_done(&job).await?;
        first.shutdown(SOON).await;
        second.shutdown(SOON).await;
        let once = ended.contains(&Ran::Booked) && ended.contains(&Ran::Failed);
        check("of two runs at once, one commits", once)?;
        check("and the event is booked once", self.bookings(&job).await? == 1)
    }

    /// Starts a worker for one event at a time. If it is watched, it reports its runs, and books only when as many runs have
    /// begun as the barrier waits for.
    fn worker(&self, watched: Option<(mpsc::UnboundedSender<Ran>, Arc<Barrier>)>) -> RunningWorker {
        let (books, inbox) = (self.books.clone(), self.inbox.clone());
        let handler = handler_fn(move |event: WebhookEvent| {
            let (books, inbox, watched) = (books.clone(), inbox.clone(), watched.clone());
            async move {
                let Some((runs, all)) = watched else { return books.book(&inbox, event.job()).await };
                runs.send(Ran::Begun)?;
                all.wait().await;
                let booked = books.book(&inbox, event.job()).await;
                runs.send(if booked.is_ok() { Ran::Booked } else { Ran::Failed })?;
                booked
            }
        });
        InboxWorker::new(self.inbox.clone(), handler, Verification::Trust)
            .concurrency(1)
            .backoff(Duration::from_secs(1), Duration::from_secs(1))
            .poll(Duration::from_millis(50))
            .start()
    }

    async fn state(&self, job: &JobId) -> Result<Option<InboxState>, BoxError> {
        Ok(self.inbox.get(job).await?.map(|(row, _)| row.state))
    }

    async fn until_done(&self, job: &JobId) -> Result<(), BoxError> {
        let done = async {
            while self.state(job).await? != Some(InboxState::Done) {
                sleep(Duration::from_millis(20)).await;
            }
            Ok::<_, BoxError>(())
        };
        timeout(PATIENCE, done).await?
    }

    async fn submissions(&self, job: &JobId) -> Result<i64, BoxError> {
        self.count("SELECT count(*) FROM submissions WHERE job_id = $1", job).await
    }

    async fn bookings(&self, job: &JobId) -> Result<i64, BoxError> {
        self.count("SELECT count(*) FROM bookings WHERE job_id = $1", job).await
    }

    async fn count(&self, statement: &str, job: &JobId) -> Result<i64, BoxError> {
        Ok(self.client.query_one(statement, &[&job.to_string()]).await?.get(0))
    }
}

/// News of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ran {
    Begun,
    Booked,
    Failed,
}

fn job(webhook: &Payload) -> Result<JobId, BoxError> {
    Ok(webhook.event()?.job().id().clone())
}

fn check(fact: &str, holds: bool) -> Result<(), BoxError> {
    if !holds {
        return Err(format!("not so: {fact}").into());
    }
    println!("{fact}");
    Ok(())
}

//! `inbox serve`: the page of an inbox, for one browser.

use qomplement_webhooks::SqliteInbox;
use qomplement_webhooks::inbox::{InboxAdmin, InboxState};
use reqwest::{Client, Response, StatusCode};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use super::{Folder, Going, LONG, command, inbox, masked, run};

struct Serving {
    going: Going,
    link: String,
}

impl Serving {
    async fn start(file: &str, args: &[&str]) -> Self {
        Self::start_for("ada", file, args).await
    }

    async fn start_for(user: &str, file: &str, args: &[&str]) -> Self {
        let mut command = command(&[&["inbox", "serve", "--db", file], args].concat());
        let mut going = Going::start(command.env("USER", user));
        let said = going.next_err().await;
        assert_eq!(said, "open this link, which works once; Ctrl-C ends the page");
        let mut out = BufReader::new(going.child.stdout.take().unwrap()).lines();
        let link = timeout(LONG, out.next_line()).await.expect("no link").unwrap().unwrap();
        assert_eq!(masked(&link), "http://ADDRESS/?token=TOKEN");
        Self { going, link }
    }

    fn host(&self) -> &str {
        self.link.split_once("/?").unwrap().0
    }
}

fn client() -> Client {
    Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers()[name].to_str().unwrap()
}

fn cookie(response: &Response) -> String {
    header(response, "set-cookie").split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn the_link_lets_one_browser_in_which_then_sees_and_acts() {
    let folder = Folder::new();
    let file = folder.file("inbox.db");
    let store = SqliteInbox::open(&file).unwrap();
    inbox::fill(&store).await;
    let serving = Serving::start(&file, &[]).await;
    let client = client();
    let status = async |url: &str| client.get(url).send().await.unwrap().status();

    assert_eq!(status(serving.host()).await, StatusCode::FORBIDDEN, "without the token");
    assert_eq!(status(&format!("{}/?token={}", serving.host(), "x".repeat(43))).await, StatusCode::FORBIDDEN);
    assert_eq!(client.head(&serving.link).send().await.unwrap().status(), StatusCode::FORBIDDEN, "a preview");

    let entered = client.get(&serving.link).send().await.unwrap();
    assert_eq!(entered.status(), StatusCode::SEE_OTHER);
    let path = header(&entered, "location").to_owned();
    let set = header(&entered, "set-cookie");
    assert!(set.ends_with(&format!("; Path={path}; HttpOnly; SameSite=Strict")), "{set}");
    let session = cookie(&entered);
    assert_eq!(status(&serving.link).await, StatusCode::FORBIDDEN, "the second time");

    let url = format!("{}{path}", serving.host());
    assert_eq!(status(&url).await, StatusCode::FORBIDDEN, "without the cookie");
    assert_eq!(status(&format!("{}/elsewhere", serving.host())).await, StatusCode::NOT_FOUND);
    let overview = client.get(&url).header("cookie", &session).send().await.unwrap();
    assert_eq!(overview.status(), StatusCode::OK);
    let form = cookie(&overview);
    let text = overview.text().await.unwrap();
    assert!(text.contains("ada") && text.contains("an unknown type"), "{text}");

    let token = form.split_once('=').unwrap().1;
    let replay = client
        .post(format!("{url}?do=replay"))
        .header("cookie", format!("{session}; {form}"))
        .header("origin", serving.host())
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("token={token}&job=job-dead"))
        .send()
        .await
        .unwrap();
    assert_eq!(replay.status(), StatusCode::SEE_OTHER);
    let (row, _) = store.get(&"job-dead".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(row.state, InboxState::Received);
    assert_eq!(serving.going.interrupt().await.code, Some(0));
}

#[tokio::test]
async fn a_read_only_page_refuses_actions() {
    let folder = Folder::new();
    let file = folder.file("inbox.db");
    let store = SqliteInbox::open(&file).unwrap();
    inbox::fill(&store).await;
    let serving = Serving::start(&file, &["--read-only"]).await;
    let client = client();
    let entered = client.get(&serving.link).send().await.unwrap();
    let (path, session) = (header(&entered, "location").to_owned(), cookie(&entered));
    let url = format!("{}{path}", serving.host());
    let overview = client.get(&url).header("cookie", &session).send().await.unwrap();
    let form = cookie(&overview);
    assert!(overview.text().await.unwrap().contains("ada, read-only"));
    let replay = client
        .post(format!("{url}?do=replay"))
        .header("cookie", format!("{session}; {form}"))
        .header("origin", serving.host())
        .body(format!("token={}&job=job-dead", form.split_once('=').unwrap().1))
        .send()
        .await
        .unwrap();
    assert_eq!(replay.status(), StatusCode::FORBIDDEN);
    let (row, _) = store.get(&"job-dead".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(row.state, InboxState::Dead);
}

// The library's log, in a process whose only subscriber is the program's.
#[tokio::test]
async fn each_action_is_one_line_on_standard_error_with_a_name() {
    let folder = Folder::new();
    let file = folder.file("inbox.db");
    inbox::fill(&SqliteInbox::open(&file).unwrap()).await;
    let serving = Serving::start_for("ada\nINFO forged", &file, &[]).await;
    let client = client();
    let entered = client.get(&serving.link).send().await.unwrap();
    let (path, session) = (header(&entered, "location").to_owned(), cookie(&entered));
    let url = format!("{}{path}", serving.host());
    let see = async |query: &str| {
        let response = client.get(format!("{url}{query}")).header("cookie", &session).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{query}");
        response
    };
    let form = cookie(&see("").await);
    let token = form.split_once('=').unwrap().1;
    let act = async |action: &str, fields: String, origin: &str| {
        let response = client
            .post(format!("{url}?do={action}"))
            .header("cookie", format!("{session}; {form}"))
            .header("origin", origin)
            .body(fields)
            .send()
            .await
            .unwrap();
        response.status()
    };
    let own = serving.host();
    let one = format!("token={token}&job=job-dead");
    assert_eq!(act("replay", one.clone(), own).await, StatusCode::SEE_OTHER);
    assert_eq!(act("replay", one.clone(), own).await, StatusCode::SEE_OTHER, "it is not dead any more");
    let many = format!("token={token}&state=dead&error=unknown");
    assert_eq!(act("discard", many, own).await, StatusCode::SEE_OTHER);
    see("?view=job&job=job-dead").await;
    see("?view=job&job=job-dead&body=1").await;
    see("?view=body&job=job-dead").await;
    assert_eq!(act("discard", one, "http://evil.example").await, StatusCode::FORBIDDEN);
    assert_eq!(act("discard", "token=x&job=job-dead".into(), own).await, StatusCode::FORBIDDEN);

    let log = serving.going.interrupt().await.err;
    let who = r#"who="ada\nINFO forged""#;
    let lines = [
        format!(r#"NOW action on the inbox {who} action="replay" job_id=job-dead rows=1"#),
        format!(r#"NOW action on the inbox {who} action="replay" job_id=job-dead rows=0"#),
        format!(
            r#"NOW action on the inbox begins {who} action="discard" filter=state=dead&error=unknown most=10000"#
        ),
        format!(
            r#"NOW action on the inbox {who} action="discard" filter=state=dead&error=unknown rows=1 more=false"#
        ),
        format!("NOW body shown on the inbox page {who} job_id=job-dead"),
        format!("NOW body downloaded from the inbox page {who} job_id=job-dead"),
        format!(
            r#"warning: NOW an action on the inbox did not come from its page; refused {who} action="discard""#
        ),
        format!(
            r#"warning: NOW an action on the inbox has not the token of its form; refused {who} action="discard""#
        ),
    ];
    assert_eq!(masked(&log).lines().collect::<Vec<_>>(), lines, "{log}");
}

#[tokio::test]
async fn a_page_of_no_inbox_is_not_served() {
    let folder = Folder::new();
    let ran = run(&["inbox", "serve", "--db", &folder.file("missing.db")]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.contains("does not exist"), "{}", ran.err);
}

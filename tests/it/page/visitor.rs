//! A browser without a network: follows links, fills forms, keeps cookies.

use bytes::Bytes;
use http::header::{COOKIE, LOCATION, SET_COOKIE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use qomplement_webhooks::page::InboxPage;
use regex::Regex;
use serde_json::Value;

pub const PATH: &str = "/admin/inbox";

pub struct Visitor {
    page: InboxPage,
    cookie: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Visitor {
    pub fn of(page: InboxPage) -> Self {
        Self { page, cookie: None }
    }

    pub async fn send(&mut self, method: Method, link: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request =
            Request::builder().method(method).uri(format!("{PATH}{link}")).header("host", "test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, cookie);
        }
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        let (head, body) = self.page.answer(request.body(body).unwrap()).await.into_parts();
        if let Some(cookie) = head.headers.get(SET_COOKIE) {
            self.cookie = Some(cookie.to_str().unwrap().split(';').next().unwrap().to_owned());
        }
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer { status: head.status, headers: head.headers, text }
    }

    /// Opens a link, which must lead to a view.
    pub async fn open(&mut self, link: &str) -> Answer {
        let answer = self.send(Method::GET, link, &[("accept", "text/html,*/*;q=0.8")], "").await;
        assert_eq!(answer.status, 200, "{link}: {}", answer.text);
        answer
    }

    pub async fn json(&mut self, link: &str) -> Value {
        let answer = self.send(Method::GET, link, &[("accept", "application/json")], "").await;
        assert_eq!(answer.headers["content-type"], "application/json");
        serde_json::from_str(&answer.text).unwrap()
    }

    /// Sends the form of a view, and follows the redirect.
    pub async fn submit(&mut self, view: &Answer) -> Answer {
        let (action, fields) = view.form();
        let answer = self.post(&action, &fields).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
        let next = answer.headers[LOCATION].to_str().unwrap().to_owned();
        self.open(&next).await
    }

    /// Sends a form as the browser does that shows the page.
    pub async fn post(&mut self, action: &str, fields: &str) -> Answer {
        self.send(Method::POST, action, &[("sec-fetch-site", "same-origin"), ("accept", "text/html")], fields)
            .await
    }
}

impl Answer {
    /// The form that posts: its action, and its fields as a body.
    pub fn form(&self) -> (String, String) {
        let form = Regex::new(r#"(?s)<form method="post" action="([^"]*)".*?</form>"#).unwrap();
        let form = form.captures(&self.text).unwrap_or_else(|| panic!("no form: {}", self.text));
        let field = Regex::new(r#"<input type="hidden" name="([^"]*)" value="([^"]*)">"#).unwrap();
        let mut fields = form_urlencoded::Serializer::new(String::new());
        for found in field.captures_iter(&form[0]) {
            fields.append_pair(&found[1], &unescaped(&found[2]));
        }
        (unescaped(&form[1]), fields.finish())
    }

    /// The link with a text.
    pub fn link(&self, text: &str) -> String {
        self.try_link(text).unwrap_or_else(|| panic!("no link {text:?}: {}", self.text))
    }

    pub fn try_link(&self, text: &str) -> Option<String> {
        let link = Regex::new(r#"(?s)<a\b[^>]*?href="([^"]*)"[^>]*>(.*?)</a>"#).unwrap();
        let mut links = link.captures_iter(&self.text);
        links.find(|found| unescaped(&found[2]) == text).map(|found| unescaped(&found[1]))
    }

    /// The text without its tags.
    pub fn words(&self) -> String {
        let main = self.text.split_once("<main").map_or(&*self.text, |(_, main)| main);
        let text = Regex::new("(?s)<[^>]*>").unwrap().replace_all(main, " ").into_owned();
        unescaped(&text).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

pub fn unescaped(text: &str) -> String {
    let mut text = text.to_owned();
    for (escaped, char) in
        [("&#34;", "\""), ("&#39;", "'"), ("&#60;", "<"), ("&#62;", ">"), ("&amp;", "&"), ("&#38;", "&")]
    {
        text = text.replace(escaped, char);
    }
    text
}

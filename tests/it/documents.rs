//! The documents: every link leads somewhere, every file that they name is there, and the guide shows every chapter.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use qomplement_webhooks::telemetry;
use regex::Regex;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn documents() -> Vec<PathBuf> {
    let markdown = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let in_folder = |folder: &str| {
        let entries = fs::read_dir(Path::new(ROOT).join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().path()).filter(markdown)
    };
    let found: Vec<_> = ["", "docs", "integrations", "benches"].into_iter().flat_map(in_folder).collect();
    assert!(found.len() > 15, "{found:?}");
    found
}

/// A document without its code blocks.
fn prose(document: &Path) -> String {
    let text = fs::read_to_string(document).unwrap_or_else(|error| panic!("{}: {error}", document.display()));
    Regex::new(r"(?ms)^```.*?^```$").unwrap().replace_all(&text, "").into_owned()
}

/// The anchors of a document's headings, as Git hosts make them.
fn anchors(document: &Path) -> HashSet<String> {
    let heading = |line: &str| {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'));
        kept.map(|char| if char == ' ' { '-' } else { char }).collect()
    };
    prose(document).lines().filter(|line| line.starts_with('#')).map(heading).collect()
}

fn captures(pattern: &str, text: &str) -> Vec<String> {
    let pattern = Regex::new(pattern).unwrap();
    pattern.captures_iter(text).map(|captures| captures[1].to_owned()).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for document in documents() {
        let text = prose(&document);
        let mut say = |what: &str| wrong.push(format!("{}: {what}", document.display()));
        let defined = captures(r"(?m)^\[([\w-]+)\]: \S+$", &text);
        for used in captures(r"\]\[([\w-]+)\]", &text) {
            if !defined.contains(&used) {
                say(&format!("[{used}] is not defined"));
            }
        }
        let inline = captures(r"\]\(([^)\s]+)\)", &text);
        for link in inline.into_iter().chain(captures(r"(?m)^\[[\w-]+\]: (\S+)$", &text)) {
            if link.starts_with("https://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target =
                if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            if !target.exists() {
                say(&format!("{link} leads nowhere"));
            } else if !anchor.is_empty() && !anchors(&target).contains(anchor) {
                say(&format!("{link} has no such heading"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_that_is_named_is_there() {
    let mut wrong = Vec::new();
    for name in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"] {
        let text = fs::read_to_string(Path::new(ROOT).join(name)).unwrap();
        let named = captures(r"`([a-z][\w./-]*(?:\.rs|\.md|\.sh|/))`", &text);
        for path in named {
            // Files of the library are named from `src` on.
            let places = [Path::new(ROOT).join(&path), Path::new(ROOT).join("src").join(&path)];
            if !places.iter().any(|place| place.exists()) {
                wrong.push(format!("{name}: {path}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_guide_shows_every_chapter() {
    let guide = fs::read_to_string(Path::new(ROOT).join("src/guide.rs")).unwrap();
    for entry in fs::read_dir(Path::new(ROOT).join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(guide.contains(&format!(": \"{name}\",")), "{name} is no chapter in src/guide.rs");
    }
}

#[test]
fn the_readme_is_a_page() {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let lines = readme.lines().count();
    assert!(lines <= 150, "README.md has {lines} lines; its place for more is docs/");
}

#[test]
fn the_spans_and_metrics_of_the_documents_are_real_ones() {
    let real = [
        telemetry::SPAN,
        telemetry::ATTEMPT_SPAN,
        telemetry::ASK_SPAN,
        telemetry::REQUESTS,
        telemetry::REQUEST_SECONDS,
        telemetry::HANDLER_SECONDS,
        telemetry::ATTEMPTS,
    ];
    let operating = fs::read_to_string(Path::new(ROOT).join("docs/operating.md")).unwrap();
    let named: HashSet<_> = captures(r"`(qomplement_webhooks?_\w+)`", &operating).into_iter().collect();
    for name in &named {
        assert!(real.contains(&&**name), "{name} is neither a span nor a metric");
    }
    for name in &real[3..] {
        assert!(named.contains(*name), "{name} is not in docs/operating.md");
    }
}

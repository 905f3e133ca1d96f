//! The documents: their links, the files that they name, the chapters of the guide, and the words of the glossary.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use qomplement_webhooks::telemetry::{self, MetricKind};
use regex::Regex;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn documents() -> Vec<PathBuf> {
    let markdown = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let in_folder = |folder: &str| {
        let entries = fs::read_dir(Path::new(ROOT).join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().path()).filter(markdown)
    };
    let found: Vec<_> =
        ["", "docs", "integrations", "benches", "dashboards"].into_iter().flat_map(in_folder).collect();
    assert!(found.len() > 15, "{found:?}");
    found
}

/// A document without its code blocks.
fn prose(document: &Path) -> String {
    let text = fs::read_to_string(document).unwrap_or_else(|error| panic!("{}: {error}", document.display()));
    Regex::new(r"(?ms)^```.*?^```$").unwrap().replace_all(&text, "").into_owned()
}

/// The anchors of a document's headings, as Git hosts make them.
pub fn anchors(document: &Path) -> HashSet<String> {
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

/// Rustdoc knows no files: the guide in the documentation has only the links that `src/guide.rs` defines.
#[test]
fn every_link_of_a_chapter_leads_to_the_same_place_in_the_documentation() {
    let guide = fs::read_to_string(Path::new(ROOT).join("src/guide.rs")).unwrap();
    let definition = Regex::new(r"(?m)^\[([\w-]+)\]: (\S+)$").unwrap();
    let mut wrong = Vec::new();
    for chapter in files(&Path::new(ROOT).join("docs"), "md") {
        let text = prose(&chapter);
        let mut say = |what: String| wrong.push(format!("{}: {what}", chapter.display()));
        for link in captures(r"\]\(([^)\s]+)\)", &text) {
            if !link.starts_with("https://") && !link.starts_with('#') {
                say(format!("{link} is no reference"));
            }
        }
        for found in definition.captures_iter(&text) {
            let place = match found[2].split_once(".md") {
                Some((file, anchor)) if !file.contains('/') => {
                    format!("crate::guide::{}{anchor}\n", file.replace('-', "_"))
                }
                _ => "crate::guide::examples#".to_owned(),
            };
            if !found[2].starts_with("https://") && !guide.contains(&format!("[{}]: {place}", &found[1])) {
                say(format!("[{}] should be {place} in src/guide.rs", &found[1]));
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
fn the_code_for_other_drivers_and_frameworks_is_that_of_the_examples() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for (chapter, folder, parts) in
        [("durable.md", "examples/orms/src/bin", 4), ("frameworks.md", "examples/frameworks/src/bin", 3)]
    {
        let examples = fs::read_dir(Path::new(ROOT).join(folder)).unwrap();
        let examples: String =
            examples.map(|example| words(&fs::read_to_string(example.unwrap().path()).unwrap())).collect();
        let guide = fs::read_to_string(Path::new(ROOT).join("docs").join(chapter)).unwrap();
        let code = captures(r"(?ms)^```rust,ignore\n(.*?)^```$", &guide);
        assert_eq!(code.len(), parts, "{chapter}: {code:?}");
        for function in code.iter().flat_map(|code| code.split("\n\n")) {
            assert!(examples.contains(&words(function)), "{chapter}: no example has\n{function}");
        }
    }
}

#[test]
fn every_command_that_runs_an_example_names_its_features() {
    let manifest = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    let example =
        r#"(?m)^\[\[example\]\]\nname = "(\w+)"\n(?:path = .*\n)?(?:required-features = \[(.*)\])?"#;
    let mut required = HashMap::new();
    for found in Regex::new(example).unwrap().captures_iter(&manifest) {
        let features = found.get(2).map_or("", |features| features.as_str()).replace(['"', ' '], "");
        required.insert(found[1].to_owned(), features);
    }
    let command = Regex::new(r"--example (\w+)(?: --features ([\w,-]+))?").unwrap();
    let (mut commands, mut wrong) = (0, Vec::new());
    for file in documents().into_iter().chain(files(&Path::new(ROOT).join("examples"), "rs")) {
        let text = fs::read_to_string(&file).unwrap();
        for found in command.captures_iter(&text).filter(|found| required.contains_key(&found[1])) {
            commands += 1;
            let named: Vec<_> = found.get(2).map_or("", |named| named.as_str()).split(',').collect();
            let needs = required[&found[1]].split(',').filter(|feature| !feature.is_empty());
            for feature in needs.filter(|feature| !named.contains(feature)) {
                wrong.push(format!("{}: {} lacks {feature}", file.display(), &found[0]));
            }
        }
    }
    assert!(commands > 10, "only {commands} commands were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_guide_shows_every_chapter() {
    let guide = fs::read_to_string(Path::new(ROOT).join("src/guide.rs")).unwrap();
    for path in files(&Path::new(ROOT).join("docs"), "md") {
        let name = path.file_name().unwrap().to_str().unwrap();
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
    let spans = [telemetry::SPAN, telemetry::ATTEMPT_SPAN, telemetry::FETCH_SPAN];
    let is_metric = |name: &str| {
        telemetry::METRICS.iter().any(|metric| {
            let suffix = if metric.kind == MetricKind::Histogram { "_bucket" } else { "" };
            name == metric.name || name.strip_suffix(suffix) == Some(metric.name)
        })
    };
    let operating = fs::read_to_string(Path::new(ROOT).join("docs/operating.md")).unwrap();
    let named: HashSet<_> = captures(r"`(qomplement_webhooks?_\w+)`", &operating).into_iter().collect();
    for name in &named {
        assert!(spans.contains(&&**name) || is_metric(name), "{name} is neither a span nor a metric");
    }
    for metric in telemetry::METRICS {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let row = operating.lines().find(|line| line.starts_with(&format!("| `{}` | {kind}", metric.name)));
        let row = row.unwrap_or_else(|| panic!("{} is not in docs/operating.md as a {kind}", metric.name));
        let label = metric.label.map(|label| format!("`{label}`"));
        let named = label.as_deref().unwrap_or("| |");
        assert!(row.contains(named), "the label of {} is not {named}: {row}", metric.name);
    }
}

/// Patterns of words that the glossary rejects, each with the word to use.
const REJECTED: [(&str, &str); 13] = [
    (r"(?i)\bg(?:ive|ives|ave|iven|iving)\s+back\b", "release"),
    (r"(?i)\bfor\s+good\b", "permanent failure, undeliverable"),
    (r"(?i)\b(?:another|next|each|every|later)\s+copy\b", "duplicate, delivery"),
    (r"(?i)\bcopies\s+of\s+(?:a|an|its|one|the|this)\s+(?:job|webhook|event)", "duplicate, delivery"),
    (r"(?i)\bdead\s+events?\b", "dead letter"),
    (r"(?i)\bask(?:s|ed|ing)?\s+(?:the\s+API|again)\b", "fetch"),
    (r"(?i)\b(?:first|second|third|last|next|another|each)\s+tr(?:y|ies)\b", "attempt, delivery"),
    (r"(?i)\blast\s+word\b", "final status"),
    (r"(?i)\b(?:came|comes|become|becomes|became)\s+of\b", "outcome"),
    (r"\b(?:is|are)\s+none\b", "is not a …"),
    (r"(?i)\b(?:so|that)\s+often\b", "a number"),
    (r"(?i)\bwho(?:m|so)?ever\b", "the reader, the caller, the process"),
    (r"(?:^|\n|[.:;] )(?:What|Who)\b[^?|\n]*(?:\n|[.:;])", "a noun instead of the clause"),
];

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

/// The texts of a source file that its users read: public docs, errors and log lines.
fn public_text(source: &str) -> String {
    let docs = Regex::new(r"(?m)^\s*//[/!] ?(.*)$").unwrap();
    let shown = Regex::new(r#"(?s)(?:\b(?:error|warn|info|debug)!\(|#\[error\().*?\)(?:;|,|\]|\n)"#).unwrap();
    let quoted = Regex::new(r#""(?:[^"\\]|\\.)*""#).unwrap();
    let docs = docs.captures_iter(source).map(|line| line[1].to_owned());
    let shown = shown.find_iter(source).flat_map(|call| quoted.find_iter(call.as_str()));
    docs.chain(shown.map(|text| text.as_str().to_owned())).collect::<Vec<_>>().join("\n")
}

#[test]
fn no_public_text_has_a_word_that_the_glossary_rejects() {
    let root = Path::new(ROOT);
    let mut texts: Vec<(PathBuf, String)> = Vec::new();
    for folder in ["src", "integrations", "cli/src"] {
        for path in files(&root.join(folder), "rs") {
            let text = public_text(&fs::read_to_string(&path).unwrap());
            texts.push((path, text));
        }
    }
    // The glossary's last column lists the rejected words.
    let last_column = Regex::new(r"(?m)[^|\n]*\|$").unwrap();
    let chapters = files(&root.join("docs"), "md");
    for path in
        chapters.into_iter().chain(["README.md", "integrations/README.md"].map(|name| root.join(name)))
    {
        let mut text = fs::read_to_string(&path).unwrap();
        if path.ends_with("docs/glossary.md") {
            text = last_column.replace_all(&text, "").into_owned();
        }
        texts.push((path, text));
    }
    assert!(texts.len() > 60, "only {} files were found", texts.len());

    let mut wrong = Vec::new();
    for (pattern, instead) in REJECTED {
        let pattern = Regex::new(pattern).unwrap();
        for (path, text) in &texts {
            for found in pattern.find_iter(text) {
                wrong.push(format!("{}: {:?}: write {instead}", path.display(), found.as_str()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

//! Reads HTML strictly: whatever the page's own templates do not write is a fault.

use regex::Regex;

const TAGS: [&str; 47] = [
    "html",
    "head",
    "meta",
    "title",
    "link",
    "script",
    "body",
    "header",
    "nav",
    "main",
    "section",
    "h1",
    "h2",
    "p",
    "a",
    "span",
    "strong",
    "small",
    "ul",
    "ol",
    "li",
    "dl",
    "dt",
    "dd",
    "div",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "form",
    "input",
    "label",
    "select",
    "option",
    "datalist",
    "button",
    "time",
    "code",
    "pre",
    "svg",
    "path",
    "polyline",
    "title",
    "figure",
    "figcaption",
];

/// Attributes whose values the page writes itself, or escapes.
const ATTRIBUTES: [&str; 47] = [
    "lang",
    "charset",
    "name",
    "content",
    "rel",
    "href",
    "type",
    "src",
    "defer",
    "data-live",
    "class",
    "id",
    "tabindex",
    "aria-current",
    "aria-label",
    "aria-labelledby",
    "aria-pressed",
    "hidden",
    "role",
    "scope",
    "title",
    "datetime",
    "method",
    "action",
    "value",
    "maxlength",
    "autocomplete",
    "spellcheck",
    "list",
    "size",
    "placeholder",
    "pattern",
    "selected",
    "data-copy",
    "download",
    "viewbox",
    "preserveaspectratio",
    "points",
    "vector-effect",
    "d",
    "width",
    "height",
    "focusable",
    "aria-hidden",
    "x",
    "y",
    "fill",
];

/// Checks that every `<` begins a tag of the page, with attributes of the page, and that nothing in it acts.
#[track_caller]
pub fn assert_own(html: &str) {
    let tag = Regex::new(r#"<(/?)([a-z0-9]+)((?:\s+[a-zA-Z-]+(?:="[^"<>]*")?)*)\s*>"#).unwrap();
    let attribute = Regex::new(r#"\s+([a-zA-Z-]+)(?:="([^"<>]*)")?"#).unwrap();
    let html = html.strip_prefix("<!doctype html>").expect("no doctype");
    let tags: Vec<_> = tag.captures_iter(html).collect();
    let shown = |at: usize| html[at..].chars().take(80).collect::<String>();
    let mut starts = html.match_indices('<');
    for found in &tags {
        let at = found.get(0).unwrap().start();
        let (start, _) = starts.next().unwrap();
        assert_eq!(start, at, "not a tag: {}", shown(start));
        assert!(TAGS.contains(&&found[2]), "<{}>: {}", &found[2], shown(at));
        for found in attribute.captures_iter(&found[3]) {
            let name = found[1].to_ascii_lowercase();
            assert!(ATTRIBUTES.contains(&&*name), "{name}: {}", shown(at));
            if matches!(&*name, "href" | "src" | "action") {
                let value = &found[2];
                assert!(value.starts_with('?') || value.starts_with('#'), "a link elsewhere: {value}");
            }
        }
    }
    assert_eq!(starts.next().map(|(at, _)| shown(at)), None, "not a tag");
    assert_eq!(
        html.matches("<script").count(),
        html.matches(r#"<script src="?asset=script.js" defer>"#).count()
    );
    let hidden = html.chars().find(|char| {
        (char.is_control() && *char != '\n')
            || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
    });
    assert_eq!(hidden, None, "a character that a browser obeys");
}

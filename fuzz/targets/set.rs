//! The command line's `--set`: changes a JSON text as the same step on a tree would, and finds an id by its meaning. The
//! input is a path, a value and a text, each but the last with a line end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qomplement_webhooks_fuzz::tree;
use serde_json::{Map, Value};

/// The command line's own files, which are private to it, in the places that they name each other by.
#[path = "../../cli/src/send/edit.rs"]
mod edit;

#[allow(dead_code, reason = "the command line uses more of the file")]
#[path = "../../cli/src/output/text.rs"]
mod text;

mod output {
    pub(crate) use crate::text::cut;
}

/// Sets a value in a tree; `None` if the path leads through a value without members.
fn set(tree: &mut Value, keys: &[String], new: Value) -> Option<()> {
    let Some((key, rest)) = keys.split_first() else {
        *tree = new;
        return Some(());
    };
    if tree.is_null() {
        *tree = Value::Object(Map::new());
    }
    match tree {
        Value::Object(members) => set(members.entry(key).or_insert(Value::Null), rest, new),
        Value::Array(items) => {
            let at = if key == "-" { items.len() } else { key.parse().ok()? };
            if at == items.len() {
                items.push(Value::Null);
            }
            set(items.get_mut(at)?, rest, new)
        }
        _ => None,
    }
}

/// All strings but the names of members.
fn strings<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        Value::Object(members) => members.values().for_each(|member| strings(member, found)),
        _ => {}
    }
}

fuzz_target!(|input: &str| {
    let mut lines = input.splitn(3, '\n');
    let (Some(path), Some(value), Some(json)) = (lines.next(), lines.next(), lines.next()) else { return };
    if tree::read(json).is_none() {
        return;
    }
    let keys: Vec<String> = path.split('.').map(str::to_owned).collect();
    let value = value.trim_matches([' ', '\t', '\r']);
    let value = if tree::read(value).is_some() { value.to_owned() } else { edit::quoted(value) };

    let changed = edit::set(json, &keys, &value);
    if let Ok(changed) = &changed {
        assert!(tree::read(changed).is_some(), "{changed:?} is not JSON");
    }
    let Ok(before) = serde_json::from_str::<Value>(json) else { return };
    if let Ok(new) = serde_json::from_str::<Value>(&value) {
        let mut after = before.clone();
        let is_set = set(&mut after, &keys, new).is_some();
        assert_eq!(changed.is_ok(), is_set, "{changed:?}");
        if let Ok(changed) = &changed
            && let Ok(changed) = serde_json::from_str::<Value>(changed)
        {
            assert_eq!(changed, after);
        }
    }

    // An id has no slash, which separates the parts of a path.
    if path.is_empty() || path.contains('/') {
        return;
    }
    let places = edit::places_of(json, path);
    for place in &places {
        let part: Option<String> = serde_json::from_str(&format!("\"{}\"", &json[place.clone()])).ok();
        assert_eq!(part.as_deref(), Some(path));
    }
    let quoted = edit::quoted(path);
    let same = edit::replaced(json, &places, &quoted[1..quoted.len() - 1]);
    assert_eq!(serde_json::from_str::<Value>(&same).ok().as_ref(), Some(&before));
    let other = format!("{path}?");
    let without = edit::replaced(json, &places, &edit::quoted(&other)[1..edit::quoted(&other).len() - 1]);
    let without: Value = serde_json::from_str(&without).unwrap();
    let mut left = Vec::new();
    strings(&without, &mut left);
    assert!(!left.iter().any(|text| text.split('/').any(|part| part == path)), "{left:?}");
});

//! What the package says of itself.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use regex::Regex;
use serde_json::Value;

fn metadata() -> Value {
    let rustc = Command::new("rustc").arg("-vV").output().unwrap().stdout;
    let rustc = String::from_utf8(rustc).unwrap();
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--all-features", "--locked", "--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The packages that a user of all features builds.
fn dependencies(metadata: &Value) -> Vec<&Value> {
    let nodes: HashMap<&str, &Value> =
        list(&metadata["resolve"]["nodes"]).map(|node| (text(&node["id"]), node)).collect();
    let mut open = vec![text(&metadata["resolve"]["root"])];
    let mut seen = HashSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            let normal =
                |dependency: &&Value| list(&dependency["dep_kinds"]).any(|kind| kind["kind"] != "dev");
            open.extend(list(&nodes[id]["deps"]).filter(normal).map(|dependency| text(&dependency["pkg"])));
        }
    }
    list(&metadata["packages"]).filter(|package| seen.contains(text(&package["id"]))).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn version(text: &str) -> Vec<u64> {
    text.split('.').map(|part| part.parse().unwrap()).chain([0]).take(3).collect()
}

#[test]
fn the_rust_version_is_the_highest_among_the_dependencies() {
    let metadata = metadata();
    let packages = dependencies(&metadata);
    let own = |package: &&&Value| package["name"] == env!("CARGO_PKG_NAME");
    let ours = packages.iter().find(own).unwrap();
    let highest = packages
        .iter()
        .filter(|package| !own(package))
        .filter_map(|package| Some((version(package["rust_version"].as_str()?), text(&package["name"]))))
        .max()
        .unwrap();
    assert_eq!(version(text(&ours["rust_version"])), highest.0, "{} needs another", highest.1);
}

#[test]
fn no_dependency_is_a_release_candidate_and_no_feature_is_on_by_default() {
    let metadata = metadata();
    for package in dependencies(&metadata) {
        let (name, version) = (text(&package["name"]), text(&package["version"]));
        assert!(!version.contains('-'), "{name} {version}");
        if name == env!("CARGO_PKG_NAME") {
            assert_eq!(package["features"]["default"], serde_json::json!([]));
        }
    }
}

/// The files of the package.
fn packaged() -> HashSet<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(["package", "--list", "--allow-dirty", "--offline", "--package", env!("CARGO_PKG_NAME")])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect()
}

#[test]
fn a_document_of_the_package_links_to_nothing_outside_of_it() {
    let (packaged, link) = (packaged(), Regex::new(r"(?m)\]\(([^)\s]+)\)|^\[[\w-]+\]: (\S+)$").unwrap());
    let (mut links, mut wrong) = (0, Vec::new());
    for document in packaged.iter().filter(|path| path.extension().is_some_and(|kind| kind == "md")) {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
        for found in link.captures_iter(&text) {
            let target = found.get(1).or(found.get(2)).unwrap().as_str();
            let file = target.split('#').next().unwrap();
            if file.is_empty() || target.starts_with("https://") {
                continue;
            }
            links += 1;
            let mut path = PathBuf::new();
            for part in document.parent().unwrap().join(file).components() {
                if part == Component::ParentDir {
                    path.pop();
                } else {
                    path.push(part);
                }
            }
            if !packaged.contains(&path) {
                wrong.push(format!("{} links to {target}", document.display()));
            }
        }
    }
    assert!(links > 50, "only {links} links were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_example_is_in_the_package() {
    let (packaged, metadata) = (packaged(), metadata());
    let ours = list(&metadata["packages"]).find(|package| package["name"] == env!("CARGO_PKG_NAME")).unwrap();
    let examples: Vec<_> = list(&ours["targets"])
        .filter(|target| target["kind"][0] == "example")
        .map(|target| &target["src_path"])
        .collect();
    assert!(examples.len() > 8, "{examples:?}");
    for example in examples {
        let path = Path::new(text(example)).strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
        assert!(packaged.contains(path), "{} is left out", path.display());
    }
}

//! What the README shows of the command line is what it does.

use regex::Regex;

use super::{Going, command, masked, run};

/// What the README's minute shows: the lines of each of its console blocks.
fn consoles() -> Vec<Vec<&'static str>> {
    let readme = include_str!("../../../README.md");
    let minute = readme.split("\n## ").find(|section| section.starts_with("Try it in one minute")).unwrap();
    let blocks = minute.split("```console\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().lines().collect()).collect()
}

fn arguments(line: &str) -> Vec<&str> {
    let command = line.strip_prefix("$ qomplement-webhooks ").unwrap_or_else(|| panic!("{line}"));
    command.split_whitespace().collect()
}

#[tokio::test]
async fn the_minute_in_the_readme_is_a_real_one() {
    let consoles = consoles();
    let [listen, send, ..] = &consoles[..] else { panic!("{consoles:?}") };
    let mut args = arguments(listen[0]);
    args.extend(["--port", "0"]);
    let mut listening = Going::start(&mut command(&args));
    let said = listening.next_err().await;
    let url = said.strip_prefix("listening on ").unwrap();

    let sends: Vec<_> = send.split(|line| line.is_empty()).collect();
    for shown in sends {
        let command = shown[0].replace("http://127.0.0.1:3000", url);
        let ran = run(&arguments(&command)).await;
        assert_eq!(ran.code, Some(0), "{command}: {ran:?}");
        assert_eq!(masked(&ran.out).trim_end(), masked(&shown[1..].join("\n")), "{command}");
    }
    let heard = listening.interrupt().await;
    let port = Regex::new(r"\b3000\b").unwrap().replace(listen[1], "0").into_owned();
    let shown = masked(&format!("{port}\n{}", listen[2..].join("\n")));
    assert_eq!(format!("{}\n{}", masked(&said), masked(&heard.out).trim_end()), shown, "what listen shows");
}

//! `qomplement-webhooks`, the command-line tool. What its commands do, their help says; what they share:
//! how they [fail](failure), how they [print](output), and where their secrets come from (`secret`).

mod completions;
mod confirm;
mod database;
mod failure;
mod fetch;
mod inbox;
mod listen;
mod output;
mod secret;
mod send;
mod stop;
mod time;
mod token;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::failure::Failure;

const AFTER_HELP: &str = "\
Exit status:
  0    everything was done, and every webhook was acknowledged
  1    something was not: a webhook is undeliverable, there is no such job
  2    the command line or the environment is wrong; nothing was done
  130  stopped by Ctrl-C before it was done; `listen` and `inbox watch` end
       that way, with 0

Environment:
  WEBHOOK_TOKEN       the token that webhooks carry
  DATABASE            the inbox: an SQLite file, or a postgres:// URL
  QOMPLEMENT_API_KEY  the key of your account at the API, for fetch
  NO_COLOR            no colours; they are only used on a terminal

Try it, in two terminals:
  qomplement-webhooks listen
  qomplement-webhooks send --to http://127.0.0.1:3000";

/// Sends Qomplement's webhooks, listens to them, and looks into inboxes
#[derive(Parser)]
#[command(version, after_help = AFTER_HELP, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Send(send::Send),
    Listen(listen::Listen),
    Inbox(inbox::Inbox),
    Fetch(fetch::Fetch),
    Token(token::Token),
    Completions(completions::Completions),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match (command, runtime) {
        (Command::Token(token), _) => token.run(),
        (Command::Completions(completions), _) => completions.run(),
        (_, Err(error)) => Err(Failure::failed(format!("no threads can be started: {error}"))),
        (Command::Send(send), Ok(runtime)) => runtime.block_on(send.run()),
        (Command::Listen(listen), Ok(runtime)) => runtime.block_on(listen.run()),
        (Command::Fetch(fetch), Ok(runtime)) => runtime.block_on(fetch.run()),
        (Command::Inbox(inbox), Ok(runtime)) => runtime.block_on(inbox.run()),
    };
    done.unwrap_or_else(Failure::report)
}

//! `qomplement-webhooks`, the command-line tool. What its commands do, their help says; what they share:
//! how they [fail](failure), how they [print](output), and where their secrets come from (`secret`).

mod arguments;
mod completions;
mod confirm;
mod database;
mod failure;
mod fetch;
mod hint;
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
When its output is read no further, as by `head`, a command that only shows
ends with 0. One that does something does all of it in silence, and its exit
status tells how that ended; `listen` goes on if it forwards.

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
#[command(name = "qomplement-webhooks", version, after_help = AFTER_HELP, max_term_width = 80, arg_required_else_help = true)]
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
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => return refused(&error),
    };
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
    let status = done.unwrap_or_else(Failure::report);
    match output::failure() {
        Some(error) => {
            output::error(format_args!("the output cannot be written: {error}"));
            if status == ExitCode::SUCCESS { ExitCode::FAILURE } else { status }
        }
        None => status,
    }
}

/// Tells what is wrong with a command line, or shows the help.
fn refused(error: &clap::Error) -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().map(|text| text.to_string_lossy().into_owned()).collect();
    let showable: Vec<_> = arguments.iter().map(|text| output::clean(text)).collect();
    if arguments == showable {
        error.exit();
    }
    // The error quotes arguments as they are: let it be about showable ones.
    match Cli::try_parse_from(showable) {
        Err(error) => error.exit(),
        Ok(_) => {
            output::note(error.render().to_string().trim_end());
            ExitCode::from(2)
        }
    }
}

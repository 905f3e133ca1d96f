//! `qomplement-webhooks`, the command-line tool. Each command has a module, and its help is its documentation. The
//! commands share how they fail (`failure`), how they print (`output`), what they hide of bodies (`redact`), and where secrets come from (`secret`).

mod arguments;
mod causes;
mod completions;
mod confirm;
mod database;
mod delivery;
mod failure;
mod fetch;
mod hint;
mod inbox;
mod listen;
mod output;
mod redact;
mod secret;
mod send;
mod stop;
mod time;
mod token;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::failure::Failure;

const AFTER_HELP: &str = "\
Exit status:
  0    success; every webhook was acknowledged
  1    failure: an undeliverable webhook, no such job, an unavailable store
  2    the command line or the environment is wrong; nothing was done
  130  interrupted by Ctrl-C; `listen`, `inbox watch` and `inbox serve` end
       with 0 then
A closed pipe, as after `head`, does not change the exit status. A command that
only shows data ends with 0; any other finishes its work without output.
`listen` ends, unless it forwards.

Environment:
  WEBHOOK_TOKEN       the token in the webhook URL
  DATABASE            the inbox: an SQLite file or a postgres:// URL
  QOMPLEMENT_API_KEY  the API key of your account, for `fetch`
  NO_COLOR            turns colours off; only a terminal gets colours

Try it, in two terminals:
  qomplement-webhooks listen
  qomplement-webhooks send --to http://127.0.0.1:3000";

/// Sends and receives Qomplement's webhooks, and operates inboxes
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
        Err(error) => return report_usage(&error),
    };
    let done = match command {
        Command::Token(token) => token.run(),
        Command::Completions(completions) => completions.run(Cli::command()),
        Command::Send(send) => run(send.run()),
        Command::Listen(listen) => run(listen.run()),
        Command::Fetch(fetch) => run(fetch.run()),
        Command::Inbox(inbox) => run(inbox.run()),
    };
    let status = done.unwrap_or_else(Failure::report);
    match output::write_error() {
        Some(error) => {
            output::error(format_args!("the output cannot be written: {error}"));
            if status == ExitCode::SUCCESS { ExitCode::FAILURE } else { status }
        }
        None => status,
    }
}

/// Runs a command to its end, and does not wait for the calls of the system that it leaves behind: the look-up of a name
/// can take half a minute, and cannot be stopped.
fn run(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("the runtime cannot start: {error}")))?;
    let done = runtime.block_on(command);
    runtime.shutdown_background();
    done
}

/// Reports an invalid command line, or prints the help.
fn report_usage(error: &clap::Error) -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().map(|text| text.to_string_lossy().into_owned()).collect();
    let showable: Vec<_> = arguments.iter().map(|text| output::clean(text)).collect();
    if arguments == showable {
        error.exit();
    }
    // The error quotes the arguments: parse printable ones instead.
    match Cli::try_parse_from(showable) {
        Err(error) => error.exit(),
        Ok(_) => {
            output::note(error.render().to_string().trim_end());
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitCode;
    use std::sync::mpsc;
    use std::time::Duration;

    use clap::CommandFactory;

    use super::{Cli, run};

    #[test]
    fn the_options_of_all_commands_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_ends_before_the_calls_that_it_leaves_behind() {
        let (end, ended) = mpsc::channel::<()>();
        let done = run(async move {
            let (begin, begun) = tokio::sync::oneshot::channel();
            tokio::task::spawn_blocking(move || {
                let _ = begin.send(());
                ended.recv_timeout(Duration::from_secs(20))
            });
            begun.await.unwrap();
            Ok(ExitCode::SUCCESS)
        });
        assert!(done.is_ok_and(|status| status == ExitCode::SUCCESS));
        end.send(()).expect("the call was waited for");
    }
}

//! `completions`: what a shell needs to complete our commands.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::failure::Failure;
use crate::{Cli, output};

/// Print what a shell needs to complete the commands
#[derive(Args)]
#[command(after_help = "\
Examples:
  source <(qomplement-webhooks completions bash)
  qomplement-webhooks completions zsh > ~/.zfunc/_qomplement-webhooks
  qomplement-webhooks completions fish | source")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self) -> Result<ExitCode, Failure> {
        // Into memory first: the generator panics when its output cannot be written.
        let mut script = Vec::new();
        let mut command = Cli::command();
        let name = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        // clap_complete 4.6.11 writes the hyphen in our name in two ways in a script for bash, and so completes
        // no command's options.
        let script =
            String::from_utf8_lossy(&script).replace("qomplement__subcmd__webhooks", "qomplement__webhooks");
        output::bytes(script.as_bytes());
        Ok(ExitCode::SUCCESS)
    }
}

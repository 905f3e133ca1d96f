//! `completions`: scripts that let a shell complete the commands.

use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use crate::failure::Failure;
use crate::output;

/// Print a script that lets a shell complete the commands
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
    pub(crate) fn run(&self, mut program: clap::Command) -> Result<ExitCode, Failure> {
        // Into memory first: the generator panics when its output cannot be written.
        let mut script = Vec::new();
        let name = program.get_name().to_owned();
        clap_complete::generate(self.shell, &mut program, name, &mut script);
        // clap_complete 4.6.11 writes the hyphen in the program's name in two ways in a script for bash, and then
        // completes the options of no command.
        let script =
            String::from_utf8_lossy(&script).replace("qomplement__subcmd__webhooks", "qomplement__webhooks");
        output::bytes(script.as_bytes());
        Ok(ExitCode::SUCCESS)
    }
}

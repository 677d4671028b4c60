use std::process::ExitCode;

fn main() -> ExitCode {
    tablecast::cli::main(std::env::args_os().collect())
}

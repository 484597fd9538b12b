//! `signalbox watch`: a dashboard of dialect `fleet` in a terminal. It lists
//! agents, follows what their commands write, and runs commands on them as if
//! they ran here. What commands write goes to standard output and standard
//! error; whatever it says itself goes to standard error, so that output can be
//! piped. It returns by itself when its connection is cut.

mod errand;
mod follow;
mod interrupt;
mod link;
mod options;
mod screen;
mod story;
mod terminal;
mod typing;

use signalbox_service::ExitError;
use tokio::runtime;

pub(crate) use self::options::WatchArgs;

pub(crate) fn run(args: &WatchArgs) -> Result<(), ExitError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ExitError::runtime)?;
    let outcome = runtime.block_on(async {
        match &args.interrupt {
            Some(command) => interrupt::interrupt(args, command).await,
            None => follow::follow(args).await,
        }
    });
    // Not waited for: a look-up of a name may be under way.
    runtime.shutdown_background();
    match outcome {
        Ok(0) => Ok(()),
        Ok(code) => Err(ExitError::Code(code)),
        // What a command is run for must not mistake this for its exit code.
        Err(ExitError::Runtime(cause)) if !args.run.is_empty() => {
            let line = ExitError::Runtime(cause).line();
            crate::output::error(format_args!("signalbox: {line}"));
            Err(ExitError::Code(errand::UNKNOWN))
        }
        Err(error) => Err(error),
    }
}

//! Messages of what is being done (`tracing`), on stderr.
//!
//! What writes them is large: it is made with the first message, and most commands have none.

use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::system::LogFormat;

/// Has messages of the asked level written to stderr.
///
/// # Panics
/// When that was asked before.
pub fn tell(level: Level, format: LogFormat) {
    Messages { level, format, writer: OnceLock::new() }.init();
}

/// Passes on to a writer what is of its level.
struct Messages {
    level: Level,
    format: LogFormat,
    writer: OnceLock<Box<dyn Subscriber + Send + Sync>>,
}

impl Messages {
    fn writer(&self) -> &dyn Subscriber {
        self.writer.get_or_init(|| {
            let builder = tracing_subscriber::fmt()
                .with_max_level(LevelFilter::from_level(self.level))
                .with_writer(std::io::stderr)
                .with_target(false);
            match self.format {
                LogFormat::Text => {
                    let colours = hull_kernel::terminal::is_terminal(std::io::stderr());
                    Box::new(builder.without_time().with_ansi(colours).finish())
                }
                LogFormat::Json => Box::new(builder.json().finish()),
            }
        })
    }
}

impl Subscriber for Messages {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }

    fn event(&self, event: &Event<'_>) {
        self.writer().event(event);
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        self.writer().new_span(attributes)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.writer().record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.writer().record_follows_from(span, follows);
    }

    fn enter(&self, span: &Id) {
        self.writer().enter(span);
    }

    fn exit(&self, span: &Id) {
        self.writer().exit(span);
    }

    fn clone_span(&self, span: &Id) -> Id {
        self.writer().clone_span(span)
    }

    fn try_close(&self, span: Id) -> bool {
        self.writer().try_close(span)
    }
}

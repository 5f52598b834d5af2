//! How much a container may send and receive, as `run`, `create` and `update` take it.
//!
//! Rates and sizes are those of tc(8). Both directions are said at once by `--net-rate`; a direction's own flag counts
//! more. What is not given stays as it was, and 0 takes a limit away.

use clap::Args;
use hull_network::bandwidth::{self, BandwidthChange, Rate};

/// A rate, or none.
type RateLimit = Option<Rate>;
/// Bytes, or what follows from the rate.
type Burst = Option<u32>;

/// The flags.
#[derive(Debug, Clone, Default, Args)]
pub struct BandwidthArgs {
    /// What may be sent at once after a pause, such as 64k
    #[arg(long, value_name = "SIZE", value_parser = bandwidth::size)]
    pub net_burst: Option<Burst>,
    /// Limit what each interface sends and what it receives, such as 20mbit
    #[arg(long, value_name = "RATE", value_parser = bandwidth::rate)]
    pub net_rate: Option<RateLimit>,
    /// Limit what each interface receives
    #[arg(long, value_name = "RATE", value_parser = bandwidth::rate)]
    pub net_rate_in: Option<RateLimit>,
    /// Limit what each interface sends
    #[arg(long, value_name = "RATE", value_parser = bandwidth::rate)]
    pub net_rate_out: Option<RateLimit>,
}

impl BandwidthArgs {
    /// What they change.
    pub fn change(&self) -> BandwidthChange {
        BandwidthChange {
            incoming: self.net_rate_in.or(self.net_rate),
            outgoing: self.net_rate_out.or(self.net_rate),
            burst_bytes: self.net_burst,
        }
    }
}

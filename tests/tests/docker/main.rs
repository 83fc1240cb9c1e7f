//! Real dockerds, one on each node, and their networks and containers by overlayd's plugin.

mod alone;

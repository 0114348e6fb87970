//! Asks Sentinels and nodes, and hands what they say to the election as observations.
//! Knows nothing of routes or datapaths.

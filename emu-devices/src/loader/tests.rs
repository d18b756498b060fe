//! Loaders on images made here: where things end up, and every truncation.

"""Speed, as ratios against peers and raw limits measured in the same run."""

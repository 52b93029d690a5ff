"""The main job on real data: killed half way, resumed, and proven to have lost nothing and done nothing twice."""

"""Kill a job on real data half way, resume it, and prove that nothing was lost or done twice."""

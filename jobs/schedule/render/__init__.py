"""A schedule as what another system fires: Kubernetes' CronJobs, systemd's timers."""

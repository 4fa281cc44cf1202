"""What ``trireme top`` shows: metrics of the replicas (``metrics``), rows made of them (``frame``), and their look
(``view``)."""

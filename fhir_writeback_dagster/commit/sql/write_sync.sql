-- A refresh is complete. What lies in the future is of a clock that was set back since, and a watermark that nobody believes any
-- more is given up.
INSERT INTO mirror.sync AS s (tenant, target, resource_type, watermark, refreshed_at, changed_at, server, listed_at)
VALUES (%(tenant)s, %(target)s, %(kind)s, %(watermark)s, %(started)s, %(now)s, %(server)s, %(listed)s)
ON CONFLICT (tenant, target, resource_type) DO UPDATE SET
  watermark = CASE WHEN s.watermark > %(latest)s THEN excluded.watermark ELSE greatest(s.watermark, excluded.watermark) END,
  server = excluded.server,
  listed_at = CASE WHEN s.listed_at > %(now)s THEN excluded.listed_at ELSE greatest(s.listed_at, excluded.listed_at) END,
  refreshed_at = CASE WHEN s.refreshed_at > %(now)s THEN excluded.refreshed_at
                      ELSE greatest(s.refreshed_at, excluded.refreshed_at) END,
  changed_at = CASE WHEN %(changed)s THEN excluded.changed_at ELSE s.changed_at END

-- Solid Cable's table, column for column. The comment in it says whose it is: it
-- goes with the table when Rails drops it and makes its own.
CREATE TABLE "{{table}}" /* made by tablecast */ (
  "id" integer PRIMARY KEY AUTOINCREMENT NOT NULL,
  "channel" blob(1024) NOT NULL,
  "payload" blob(536870912) NOT NULL,
  "created_at" datetime(6) NOT NULL,
  "channel_hash" integer(8) NOT NULL
);
CREATE INDEX "index_{{table}}_on_channel" ON "{{table}}" ("channel");
CREATE INDEX "index_{{table}}_on_channel_hash" ON "{{table}}" ("channel_hash");
CREATE INDEX "index_{{table}}_on_created_at" ON "{{table}}" ("created_at");

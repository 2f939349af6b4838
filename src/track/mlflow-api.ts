// MLflow's REST API, as far as a run needs it (mlflow.org/docs/latest/rest-api.html).

import { NeftuneError, UsageError } from "../errors.ts";

export interface MlflowSettings {
  /** Address of the server, without a slash at its end. */
  uri: string;
  experiment: string;
  runName: string | null;
  /** The value of the Authorization header; null: none. */
  authorization: string | null;
}

/** Reads MLflow's own variables. Throws UsageError where no server is named. */
export function mlflowSettings(env: Readonly<Record<string, string | undefined>>): MlflowSettings {
  const uri = env.MLFLOW_TRACKING_URI ?? "";
  if (!/^https?:\/\/./.test(uri) || !URL.canParse(uri)) {
    const got = uri === "" ? "is not set" : `is ${uri}`;
    throw new UsageError(
      `--report-to mlflow: MLFLOW_TRACKING_URI ${got}; set it to the address of an MLflow server (http://…)`,
    );
  }
  const {
    MLFLOW_TRACKING_TOKEN: token,
    MLFLOW_TRACKING_USERNAME: user,
    MLFLOW_TRACKING_PASSWORD: password,
  } = env;
  const basic =
    user === undefined ? null : `Basic ${Buffer.from(`${user}:${password ?? ""}`).toString("base64")}`;
  return {
    uri: uri.replace(/\/+$/, ""),
    experiment: env.MLFLOW_EXPERIMENT_NAME || "Default",
    runName: env.MLFLOW_RUN_NAME || null,
    authorization: token ? `Bearer ${token}` : basic,
  };
}

const TIMEOUT_MILLISECONDS = 10_000;
/** Waits between tries, for a server that is away for a moment. */
const WAITS = [500, 2000];

export interface OpenRun {
  id: string;
  /** Where its artifacts are. */
  artifacts: string;
  /** Names of parameters that it has; MLflow refuses to change one. */
  params: ReadonlySet<string>;
}

interface MetricPoint {
  key: string;
  value: number;
  step: number;
  timestamp: number;
}

/** Values that one log-batch may hold. */
export const MOST_METRICS = 1000;
const MOST_PARAMS = 100;
const LONGEST_PARAM = 6000;

export class MlflowApi {
  readonly #settings: MlflowSettings;
  readonly #waits: readonly number[];

  constructor(settings: MlflowSettings, waits: readonly number[] = WAITS) {
    this.#settings = settings;
    this.#waits = waits;
  }

  /** The run to log to: `known`, where the server has it, else a new one. */
  async openRun(known: string | null): Promise<OpenRun> {
    if (known !== null) {
      const found = await this.#call("GET", `runs/get?run_id=${encodeURIComponent(known)}`).catch(missing);
      if (found !== null) {
        await this.#call("POST", "runs/update", { run_id: known, status: "RUNNING" });
        return runOf(found);
      }
    }
    const { experiment, runName } = this.#settings;
    const now = Date.now();
    return runOf(
      await this.#call("POST", "runs/create", {
        experiment_id: await this.#experimentId(experiment),
        start_time: now,
        ...(runName === null ? {} : { run_name: runName }),
      }),
    );
  }

  async #experimentId(name: string): Promise<string> {
    const path = `experiments/get-by-name?experiment_name=${encodeURIComponent(name)}`;
    const found = (await this.#call("GET", path).catch(missing)) as {
      experiment?: { experiment_id: string };
    } | null;
    if (found?.experiment !== undefined) return found.experiment.experiment_id;
    const { experiment_id: id } = (await this.#call("POST", "experiments/create", { name })) as {
      experiment_id: string;
    };
    return id;
  }

  /** Those that the run does not have yet. */
  async logParams({ id, params: had }: OpenRun, params: Readonly<Record<string, string>>): Promise<void> {
    const all = Object.entries(params)
      .filter(([key]) => !had.has(key))
      .map(([key, value]) => ({ key, value: value.slice(0, LONGEST_PARAM) }));
    for (let at = 0; at < all.length; at += MOST_PARAMS)
      await this.#call("POST", "runs/log-batch", { run_id: id, params: all.slice(at, at + MOST_PARAMS) });
  }

  async logMetrics(run: string, metrics: readonly MetricPoint[]): Promise<void> {
    await this.#call("POST", "runs/log-batch", { run_id: run, metrics });
  }

  async end(run: string, status: "FINISHED" | "FAILED" | "KILLED"): Promise<void> {
    await this.#call("POST", "runs/update", { run_id: run, status, end_time: Date.now() });
  }

  /** Keeps a file with the run, through the server. Throws NeftuneError where the server does not take artifacts. */
  async upload(artifacts: string, name: string, path: string): Promise<void> {
    const root = /^mlflow-artifacts:\/+(?:[^/]+\/api\/2\.0\/mlflow-artifacts\/artifacts\/)?(.*)$/.exec(
      artifacts,
    )?.[1];
    if (root === undefined) {
      throw new NeftuneError(
        "mlflow",
        `artifacts are kept at ${artifacts}, not by the server (mlflow server --serve-artifacts)`,
      );
    }
    const { uri } = this.#settings;
    await this.#send(
      "PUT",
      `${uri}/api/2.0/mlflow-artifacts/artifacts/${root}/${encodeURIComponent(name)}`,
      () => Bun.file(path),
    );
  }

  async #call(method: string, path: string, body?: object): Promise<unknown> {
    const text = body === undefined ? undefined : JSON.stringify(body);
    return await this.#send(method, `${this.#settings.uri}/api/2.0/mlflow/${path}`, () => text);
  }

  /** Asks again where the server is away or overloaded. */
  async #send(method: string, url: string, body: () => string | Blob | undefined): Promise<unknown> {
    const { authorization } = this.#settings;
    const content = body();
    const headers: Record<string, string> = {
      ...(typeof content === "string" ? { "Content-Type": "application/json" } : {}),
      ...(authorization === null ? {} : { Authorization: authorization }),
    };
    for (let attempt = 0; ; attempt++) {
      const wait = this.#waits[attempt];
      let problem: NeftuneError;
      try {
        const response = await fetch(url, {
          method,
          headers,
          signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS),
          ...(content === undefined ? {} : { body: content }),
        });
        if (response.ok) return await response.json().catch(() => ({}));
        const said = (await response.text()).slice(0, 200).replaceAll(/\s+/g, " ");
        problem = new NeftuneError(
          response.status === 404 ? "missing" : "mlflow",
          `${response.status}: ${said}`,
        );
        if (response.status < 500 && response.status !== 429) throw problem;
      } catch (error) {
        if (error instanceof NeftuneError) throw error;
        problem = new NeftuneError("mlflow", (error as Error).message, { cause: error });
      }
      if (wait === undefined) throw problem;
      await Bun.sleep(wait);
    }
  }
}

function missing(error: unknown): null {
  if (error instanceof NeftuneError && error.code === "missing") return null;
  throw error;
}

function runOf(reply: unknown): OpenRun {
  const { run } = reply as {
    run: { info: { run_id: string; artifact_uri: string }; data?: { params?: { key: string }[] } };
  };
  const params = new Set(run.data?.params?.map(({ key }) => key));
  return { id: run.info.run_id, artifacts: run.info.artifact_uri, params };
}

// Errors in the form that OpenAI's clients read.

/** A request that is refused, with its HTTP status. */
export class ApiError extends Error {
  readonly status: number;
  readonly param: string | null;
  readonly code: string | null;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    status: number,
    message: string,
    { param = null, code = null, headers = {} }: ErrorDetails = {},
  ) {
    super(message);
    this.status = status;
    this.param = param;
    this.code = code;
    this.headers = headers;
  }

  toJson(): object {
    const { message, param, code } = this;
    return { error: { message, type: typeOf(this.status), param, code } };
  }

  toResponse(): Response {
    return Response.json(this.toJson(), { status: this.status, headers: this.headers });
  }
}

interface ErrorDetails {
  /** The field of the request that is wrong. */
  param?: string | null;
  code?: string | null;
  headers?: Readonly<Record<string, string>>;
}

function typeOf(status: number): string {
  if (status === 401) return "authentication_error";
  if (status === 404) return "not_found_error";
  if (status === 429) return "rate_limit_error";
  return status < 500 ? "invalid_request_error" : "server_error";
}

/**
 * The wait before try number `tries` (from 1). Anything up to the step, at random: after a server's restart all its
 * clients are back within seconds, but not in the same instant.
 *
 * @param {number[]} steps
 * @param {number} tries
 * @param {() => number} [random] in [0, 1)
 * @returns {number} milliseconds
 */
export function backoff(steps: number[], tries: number, random?: () => number): number;
/** Replaces a presence state by another and says what the difference is. Changes neither. */
export function syncState(current: any, next: any): {
    state: any;
    joins: any;
    leaves: any;
};
/** Applies a `presence_diff` and says what came of it. Leaves of those who are not there are ignored. Changes neither. */
export function syncDiff(current: any, { joins, leaves }: {
    joins: any;
    leaves: any;
}): {
    state: any;
    joins: any;
    leaves: any;
};
/**
 * One client's connection, opened again whenever it is lost.
 */
export class Socket {
    /**
     * @param {string} endpoint the mount: `/socket` on a page, else with scheme and host
     * @param {object} [options]
     * @param {object | (() => object)} [options.params] sent with each connection; a function is asked each time
     * @param {string | (() => string)} [options.authToken] for mounts with `auth_token`: sent in a header, not in the address
     * @param {number} [options.timeout] milliseconds that pushes and joins wait for their reply
     * @param {number} [options.heartbeatIntervalMs]
     * @param {(tries: number) => number} [options.reconnectAfterMs]
     * @param {(tries: number) => number} [options.rejoinAfterMs]
     * @param {string | Function} [options.transport] `"websocket"` is the default; where there is no `WebSocket`, it is long
     *   polling if `longPollFallbackMs` is set, and else an error
     * @param {string | object} [options.dialect] `"2.0.0"` is the default
     * @param {number} [options.longPollFallbackMs] if no connection comes about in so many milliseconds, or one fails, then
     *   long polling and the transport take turns until one does; that one stays
     */
    constructor(endpoint: string, options?: {
        params?: object | (() => object);
        authToken?: string | (() => string);
        timeout?: number;
        heartbeatIntervalMs?: number;
        reconnectAfterMs?: (tries: number) => number;
        rejoinAfterMs?: (tries: number) => number;
        transport?: string | Function;
        dialect?: string | object;
        longPollFallbackMs?: number;
    });
    /** Connects, and stays connected until {@link Socket.disconnect}. */
    connect(): void;
    /** Closes the connection for good. Channels join again after the next {@link Socket.connect}. */
    disconnect(code?: number, reason?: string): void;
    /** Whether messages can be sent now. */
    isConnected(): boolean;
    /**
     * A channel for a topic. It is not joined yet.
     *
     * @param {string} topic
     * @param {object | ArrayBuffer | (() => object)} [params] sent with each join; a function is asked each time
     * @returns {Channel}
     */
    channel(topic: string, params?: object | ArrayBuffer | (() => object)): Channel;
    /** @param {() => void} callback @returns {number} for {@link Socket.off} */
    onOpen(callback: () => void): number;
    /** @param {(event: {code: number, reason: string}) => void} callback @returns {number} for {@link Socket.off} */
    onClose(callback: (event: {
        code: number;
        reason: string;
    }) => void): number;
    /** @param {(error: unknown) => void} callback @returns {number} for {@link Socket.off} */
    onError(callback: (error: unknown) => void): number;
    /** @param {(message: Message) => void} callback sees every message @returns {number} for {@link Socket.off} */
    onMessage(callback: (message: Message) => void): number;
    /** @param {number[]} refs of callbacks that are called no more */
    off(refs: number[]): void;
    /** Where the next connection goes. */
    endPointURL(): string;
    /** @internal */
    get _options(): {
        params: object | (() => object);
        authToken?: string | (() => string);
        timeout: number;
        heartbeatIntervalMs: number;
        reconnectAfterMs: (tries: any) => number;
        rejoinAfterMs: (tries: any) => number;
        transport: string | Function;
        dialect: string | object;
        longPollFallbackMs?: number;
    };
    /** @internal Refs are unique for a socket's life, so a late reply never answers another's push. */
    _nextRef(): string;
    /** @internal Sends if connected; throws if the message cannot be encoded. */
    _send(message: any): void;
    /** @internal */
    _remove(channel: any): void;
    /** @internal The server knows one channel for a topic; an earlier one of ours makes way. */
    _replaceOthers(channel: any): void;
    #private;
}
/**
 * A membership of one topic, taken up again after a crash or a lost connection.
 *
 * `state` is `"closed"`, `"joining"`, `"joined"`, `"errored"` (a join will be tried again) or `"leaving"`.
 */
export class Channel {
    /** @internal Use {@link Socket.channel}. */
    constructor(topic: any, params: any, socket: any);
    /** @type {"closed" | "joining" | "joined" | "errored" | "leaving"} */
    state: "closed" | "joining" | "joined" | "errored" | "leaving";
    topic: any;
    /**
     * Joins, now or as soon as the socket is connected, and again whenever the channel is lost. The callbacks of the
     * returned push are called for each of these joins. A refused join is tried again as well; {@link Channel.leave} ends that.
     *
     * @param {number} [timeoutMs]
     * @returns {Push}
     */
    join(timeoutMs?: number): Push;
    /**
     * Leaves for good.
     *
     * @returns {Push} answered `"ok"` even where nobody is there to answer
     */
    leave(timeoutMs?: any): Push;
    /**
     * Sends an event. Before the join is answered, and while the channel is lost, pushes wait for the join in their order.
     *
     * @param {string} event
     * @param {unknown} [payload] anything JSON, or an `ArrayBuffer` or a view of one, which goes out as it is
     * @param {number} [timeoutMs]
     * @returns {Push}
     */
    push(event: string, payload?: unknown, timeoutMs?: number): Push;
    /** @param {string} event @param {(payload: any) => void} callback @returns {number} for {@link Channel.off} */
    on(event: string, callback: (payload: any) => void): number;
    /** Calls one callback of an event no more, or without `ref` all of them. */
    off(event: any, ref: any): void;
    /**
     * @param {(payload: object) => void} callback called when the channel is lost, unless by {@link Socket.disconnect}
     * @returns {number} for {@link Channel.off}
     */
    onError(callback: (payload: object) => void): number;
    /** @param {() => void} callback called when the channel has ended @returns {number} for {@link Channel.off} */
    onClose(callback: () => void): number;
    /** The join that this channel lives by; changes with each. */
    joinRef(): any;
    /** @internal */
    _receive({ joinRef, ref, event, payload }: {
        joinRef: any;
        ref: any;
        event: any;
        payload: any;
    }): void;
    /** @internal */
    _socketOpened(): void;
    /** @internal */
    _socketClosed(byAccident: any): void;
    #private;
}
/** What a push was answered with, where that is not `"ok"`. */
export class ReplyError extends Error {
    /** `topic`: of the channel, where that is known. */
    constructor(status: any, response: any, topic: any);
    status: any;
    response: any;
}
/**
 * A message that waits for its reply.
 *
 * The status is what the channel says, `"ok"` as a rule; `"timeout"` when nothing came in time; `"error"` also when the
 * channel was lost before it answered, with the reason. As a promise it gives the response to `"ok"`, and throws a
 * {@link ReplyError} for anything else.
 */
export class Push {
    /** @internal Use {@link Channel.push}. */
    constructor(event: any, payload: any, timeoutMs: any, settled: any, topic: any);
    /** @internal Of the message that was sent. */
    ref: any;
    event: any;
    payload: any;
    /**
     * @param {string} status
     * @param {(response: any) => void} callback called at once if the reply is there already
     * @returns {this}
     */
    receive(status: string, callback: (response: any) => void): this;
    /** Makes `await` work. */
    then(fulfilled: any, rejected: any): Promise<any>;
    /** @internal From now on the reply is waited for; a join is started again and again. */
    _start(): void;
    /** @internal */
    _settle(status: any, response: any): void;
    /** @internal */
    _cancel(): void;
    #private;
}
/**
 * Who is there, kept up to date from `presence_state` and `presence_diff`.
 *
 * `state` maps each key to `{ metas: [...] }`, one meta for each device or tab. It is a map without prototype, so that
 * somebody called `__proto__` or `constructor` is just somebody.
 */
export class Presence {
    /**
     * @param {Channel} channel
     * @param {{events?: {state: string, diff: string}}} [options]
     */
    constructor(channel: Channel, { events }?: {
        events?: {
            state: string;
            diff: string;
        };
    });
    state: any;
    /** @param {(key: string, current: object | undefined, joined: object) => void} callback */
    onJoin(callback: (key: string, current: object | undefined, joined: object) => void): void;
    /** @param {(key: string, current: object, left: object) => void} callback `current.metas` is empty if the key went */
    onLeave(callback: (key: string, current: object, left: object) => void): void;
    /** @param {() => void} callback called after each change */
    onSync(callback: () => void): void;
    /** @param {(key: string, entry: object) => any} [by] @returns {any[]} one for each key */
    list(by?: (key: string, entry: object) => any): any[];
    #private;
}
/**
 * What a WebSocket is, made of requests: one that waits for messages, and one at a time that brings ours.
 *
 * Each answer to a poll holds a token that says how far we are. A poll that fails is repeated once with the same token, so
 * what the lost answer held comes again, and nothing comes twice. A POST is never repeated.
 */
export class LongPoll {
    /** Polling shows that both sides live. */
    static skipHeartbeat: boolean;
    /** @param {string} url @param {{post: {contentType: string, lines: number}}} [dialect] @param {string} [authToken] */
    constructor(url: string, { post }?: {
        post: {
            contentType: string;
            lines: number;
        };
    }, authToken?: string);
    /** Bytes come as text, which the dialect turns back. */
    textOnly: boolean;
    readyState: number;
    /** @param {string | ArrayBuffer} frame */
    send(frame: string | ArrayBuffer): void;
    /** Ends it. What was sent before still goes out. */
    close(code?: number, reason?: string): void;
    #private;
}
export namespace V2 {
    let vsn: string;
    namespace paths {
        let websocket: string;
        let longpoll: string;
    }
    namespace post {
        let contentType: string;
        let lines: number;
    }
    /** @param {Message} message @returns {string | ArrayBuffer} */
    function encode({ joinRef, ref, topic, event, payload }: Message): string | ArrayBuffer;
    /**
     * @param {string | ArrayBuffer} frame
     * @param {boolean} [textOnly] whether `frame` is text because nothing else travels; bytes then are `{"_binary": base64}`
     * @returns {Message}
     */
    function decode(frame: string | ArrayBuffer, textOnly?: boolean): Message;
}
export namespace V0_11 {
    export namespace paths_1 {
        let websocket_1: string;
        export { websocket_1 as websocket };
        let longpoll_1: string;
        export { longpoll_1 as longpoll };
    }
    export { paths_1 as paths };
    export namespace post_1 {
        let contentType_1: string;
        export { contentType_1 as contentType };
        let lines_1: number;
        export { lines_1 as lines };
    }
    export { post_1 as post };
    /** @param {Message} message @returns {string} */
    export function encode({ ref, topic, event, payload }: Message): string;
    /** @param {string} frame @returns {Message} */
    export function decode(frame: string): Message;
}
export type Message = {
    /**
     * which join it belongs to
     */
    joinRef: string | null;
    /**
     * what a reply repeats
     */
    ref: string | null;
    topic: string;
    event: string;
    /**
     * of a reply `{ status, response }`
     */
    payload: any;
};

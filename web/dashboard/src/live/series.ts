/** Figures over time: bounded, in order of time, one row of values for each moment. */

/** Rows that are kept: an hour at one every two seconds, with room. */
const ROWS_MAX = 2000;

export class Series {
  readonly times: number[] = [];
  readonly columns: (number | null)[][];

  constructor(width: number) {
    this.columns = Array.from({ length: width }, () => []);
  }

  push(timeSeconds: number, values: (number | null)[]): void {
    this.times.push(timeSeconds);
    this.columns.forEach((column, at) => column.push(values[at] ?? null));
    if (this.times.length > ROWS_MAX) {
      const extra = this.times.length - ROWS_MAX;
      this.times.splice(0, extra);
      this.columns.forEach((column) => column.splice(0, extra));
    }
  }

  column(at: number): (number | null)[] {
    return this.columns[at] ?? [];
  }

  last(at: number): number | null {
    return this.columns[at]?.at(-1) ?? null;
  }
}

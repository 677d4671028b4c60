"use client";

import { useRouter } from "next/navigation";
import { useEffect, useState } from "react";

export default function Log({ id, lines: rendered, position }) {
  const [lines, setLines] = useState(rendered);
  const router = useRouter();

  useEffect(() => {
    const source = new EventSource(`/jobs/${id}/events?from=${position}`);
    let refresh;
    source.onmessage = ({ data }) => {
      const line = JSON.parse(data);
      // In development React opens the source twice, from the same position.
      setLines((lines) => (line.n > (lines.at(-1)?.n ?? 0) ? [...lines, line] : lines));
    };
    source.addEventListener("reset", () => {
      source.close();
      refresh = setTimeout(() => router.refresh(), Math.random() * 10_000); // not all pages at once
    });
    return () => {
      source.close();
      clearTimeout(refresh);
    };
  }, [id, position, router]);

  return (
    <ol>
      {lines.map(({ n, text }) => (
        <li key={n} value={n}>{text}</li>
      ))}
    </ol>
  );
}

/** What stands in the place of a list that could not be fetched. */
import { Button, Empty } from './bits';

export function ListTrouble({ text, again }: { text: string; again: () => void }) {
  return (
    <div role="alert">
      <Empty icon="warning" title="This list could not be fetched">
        <p>{text}</p>
        <Button onClick={again}>Try again</Button>
      </Empty>
    </div>
  );
}

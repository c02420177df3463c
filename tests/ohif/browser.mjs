// The hands of run.py: reads a command as one line of JSON, does it in OHIF as a person would, answers in one line.
//
//     node browser.mjs MODULES CHROMIUM FOLDER
//
// MODULES has node_modules/playwright-core in it, FOLDER takes the profile, the log and what is written.

import { createRequire } from "node:module";
import { appendFileSync, mkdirSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { join } from "node:path";

const [modules, executablePath, folder] = process.argv.slice(2);
const { chromium } = createRequire(join(modules, "package.json"))("playwright-core");
const LOG = join(folder, "requests.jsonl");

const context = await chromium.launchPersistentContext(join(folder, "profile"), {
  executablePath,
  headless: true,
  viewport: { width: 1700, height: 760 },
  args: [
    "--headless",
    "--no-sandbox", // Chromium refuses to run as root otherwise
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle", // WebGL on the processor
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
  ],
});
context.setDefaultTimeout(60_000);
const page = context.pages()[0];

function log(entry) {
  appendFileSync(LOG, JSON.stringify(entry) + "\n");
}

/** The JSON in the field `params` of a form. */
function params(request) {
  const found = /name="params"\r\n\r\n(.*?)\r\n/.exec(request.postData() ?? "");
  return found ? JSON.parse(found[1]) : null;
}

page.on("response", (response) => {
  const request = response.request();
  log({ method: request.method(), url: request.url(), status: response.status(), params: params(request) });
});
page.on("requestfailed", (request) => log({ url: request.url(), failed: request.failure()?.errorText }));
page.on("pageerror", (error) => log({ error: String(error) }));
page.on("console", (message) => message.type() === "error" && log({ console: message.text() }));

const tab = page.locator(".tab", { hasText: "Point Prompts" });

const COMMANDS = {
  /** From the list of studies to the model's point prompts. */
  async open({ server, patient, model }) {
    await page.goto(new URL("ohif/", server).href);
    await page.getByText("Confirm and Hide").click();
    await page.getByText(patient, { exact: true }).first().click();
    await page.getByRole("button", { name: "MONAI Label" }).first().click();
    await page.waitForFunction(() => {
      const volumes = window.cornerstone?.cache.getVolumes() ?? [];
      const viewports = window.cornerstone?.getRenderingEngines()?.[0]?.getViewports() ?? [];
      return viewports.length === 3 && volumes.length > 0 && volumes.every((volume) => volume.loadStatus.loaded);
    });
    await page.locator("#monailabelServerURL").fill(server);
    await page.locator(".settingsTable button").click();
    await tab.getByText("Point Prompts").click();
    await tab.locator("select").selectOption(model);
    await page.waitForFunction(() => window.services.segmentationService.getLabelmapVolume("1"));
    await page.waitForTimeout(3000); // the messages in the corner go
    return { tabs: await page.locator(".tab-label").allInnerTexts() };
  },

  /** Where a viewport is on the page (pixels) and how its camera looks at the patient (mm, LPS). */
  async view({ viewport }) {
    return await page.evaluate((id) => {
      const found = window.cornerstone.getRenderingEngines()[0].getViewport(id);
      const { x, y, width, height } = found.canvas.getBoundingClientRect();
      const { focalPoint, viewUp, viewPlaneNormal, parallelScale } = found.getCamera();
      return { x, y, width, height, focalPoint, viewUp, viewPlaneNormal, parallelScale };
    }, viewport);
  },

  /** One notch of the wheel over a viewport. */
  async wheel({ x, y, notches }) {
    await page.mouse.move(x, y);
    await page.mouse.wheel(0, 100 * notches);
    await page.waitForTimeout(150);
    return {};
  },

  /** A picture of a part of the page, or of all of it. */
  async picture({ path, clip }) {
    await page.mouse.move(5, 300); // away from what is looked at
    await page.waitForTimeout(500);
    await page.screenshot({ path, clip });
    return {};
  },

  async label({ name }) {
    await tab.locator("tr.clickable-row", { hasText: name }).click();
    await page.waitForTimeout(300);
    return {};
  },

  /** Set a point of the chosen label with the mouse. */
  async click({ viewport, x, y }) {
    const active = () => page.evaluate(() => window.services.viewportGridService.getState().activeViewportId);
    if ((await active()) !== viewport) {
      await page.mouse.click(x, y); // the first click into a viewport only makes it the active one
      await page.waitForTimeout(1500); // or both are taken for a double click
    }
    const points = () => window.cornerstoneTools.annotation.state.getAllAnnotations().length;
    const before = await page.evaluate(points);
    await page.mouse.click(x, y);
    await page.waitForFunction(`(${points})() > ${before}`);
    return {};
  },

  /** Press Run; what was asked and answered, and the mask that OHIF then holds. */
  async run({ name }) {
    const start = Date.now();
    const timeout = 180_000;
    const isDrawn = (message) => message.text().startsWith("updated the segmentation"); // OHIF's own words
    const drawn = page.waitForEvent("console", { predicate: isDrawn, timeout }).catch(() => null);
    const [response] = await Promise.all([
      page.waitForResponse((each) => each.url().includes("/infer/"), { timeout }),
      tab.getByRole("button", { name: "Run" }).click(),
    ]);
    const [answer, shown] = [join(folder, `${name}_answer.nrrd`), join(folder, `${name}_shown.raw`)];
    writeFileSync(answer, await response.body());
    const seconds = (Date.now() - start) / 1000;
    if (response.status() !== 200) throw new Error(`${response.status()}: ${await response.text()}`);
    if (!(await drawn)) throw new Error("OHIF has not taken the mask");
    writeFileSync(shown, Buffer.from(await page.evaluate(labelmap)));
    return { url: response.url(), params: params(response.request()), seconds, answer, shown };
  },

  /** Run lines in the browser's console that save the mask. */
  async save({ code }) {
    const [response] = await Promise.all([
      page.waitForResponse((each) => each.url().includes("/datastore/label")),
      page.evaluate(`(async () => {${code}})()`),
    ]);
    return { status: response.status(), text: await response.text() };
  },
};

/** The voxels of OHIF's mask, x fastest. Runs in the page. */
function labelmap() {
  const { voxelManager } = window.services.segmentationService.getLabelmapVolume("1");
  return Array.from(voxelManager.getCompleteScalarDataArray());
}

mkdirSync(folder, { recursive: true });
try {
  for await (const line of createInterface({ input: process.stdin })) {
    const { command, ...rest } = JSON.parse(line);
    try {
      console.log(JSON.stringify(await COMMANDS[command](rest)));
    } catch (error) {
      await page.screenshot({ path: join(folder, "failed.png") }).catch(() => {});
      console.log(JSON.stringify({ error: `${command}: ${error}` }));
    }
  }
} finally {
  await context.close();
}
